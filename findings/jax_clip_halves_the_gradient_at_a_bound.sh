#!/usr/bin/env bash
# The gradient of a number that stands exactly on the bound it is clipped to is 1, a half or 0, by the function.
#
# jax 0.10.2, torch 2.13.0: an action of 1 in a box that ends at 1. `torch.clamp` lets all of the gradient through,
# `jnp.clip` half of it, `jax.lax.clamp` nothing; PyTorch's `hardtanh` nothing and JAX's `hard_tanh` all of it, unlike
# their own libraries' clips. `jnp.clip` is a minimum of a maximum, which share out a tie, and every further clip
# to the same bounds halves again: after those of a planner, a wrapper and a simulator an eighth is left. Actions stand
# there often: whoever clips them after an update puts them there, and an engine that is off is a 0 in [0, 1]. Here
# six actions begin at 0, and such a descent brings them near 1 in 20 steps with `torch.clamp` and `jnp.clip`;
# with `lax.clamp` they stay at 0 for ever. A good guess would be one convention for all, such as PyTorch's 1, which
# the gradient inside of the box is. (PyTorch's was 0 until pytorch/pytorch pull request 7049.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2" \
  "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import torch

IN_JAX = {
    "jnp.clip": lambda x: jnp.clip(x, -1, 1),
    "jnp.clip, three times": lambda x: x.clip(-1, 1).clip(-1, 1).clip(-1, 1),
    "lax.clamp": lambda x: jax.lax.clamp(-1.0, x, 1.0),
    "jax.nn.hard_tanh": jax.nn.hard_tanh,
}
IN_TORCH = {
    "torch.clamp": lambda x: x.clamp(-1, 1),
    "torch.clamp, three times": lambda x: x.clamp(-1, 1).clamp(-1, 1).clamp(-1, 1),
    "F.hardtanh": torch.nn.functional.hardtanh,
}


def torch_gradient(function, at):
    x = torch.tensor(at, requires_grad=True)
    function(x).sum().backward()
    return x.grad


found = {}
for bound in (-1.0, 1.0):
    now = {name: float(jax.grad(f)(jnp.float32(bound))) for name, f in IN_JAX.items()}
    now |= {name: torch_gradient(f, bound).item() for name, f in IN_TORCH.items()}
    assert not found or now == found, "the two bounds differ"
    found = now
print("jax", jax.__version__, "torch", torch.__version__.partition("+")[0], found)
assert found == {
    "jnp.clip": 0.5,
    "jnp.clip, three times": 0.125,
    "lax.clamp": 0.0,
    "jax.nn.hard_tanh": 1.0,
    "torch.clamp": 1.0,
    "torch.clamp, three times": 1.0,
    "F.hardtanh": 0.0,
}


def descend(gradient):
    """Projected gradient descent of (clipped action - 1)^2, from the lower bound 0."""
    actions = [0.0] * 6
    for _ in range(20):
        actions = [min(max(a - 0.1 * g, 0.0), 1.0) for a, g in zip(actions, gradient(actions))]
    return actions[0]


def by_jax(clip):
    return lambda actions: jax.grad(lambda a: ((clip(a) - 1) ** 2).sum())(jnp.array(actions)).tolist()


ended = {
    "jnp.clip": descend(by_jax(lambda a: jnp.clip(a, 0, 1))),
    "lax.clamp": descend(by_jax(lambda a: jax.lax.clamp(0.0, a, 1.0))),
    "torch.clamp": descend(
        lambda actions: torch_gradient(lambda a: (a.clamp(0, 1) - 1) ** 2, actions).tolist()
    ),
}
print("actions after 20 steps from 0 towards 1:", ended)
assert ended["lax.clamp"] == 0 and min(ended["jnp.clip"], ended["torch.clamp"]) > 0.98, ended
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/check.py"
