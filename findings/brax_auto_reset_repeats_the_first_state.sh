#!/usr/bin/env bash
# Brax's auto-reset starts every episode of a copy in the very state its first one began with.
#
# brax 0.14.2, jax 0.10.2: envs.create(..., auto_reset=True), the default, and training.wrap keep the state of the first
# reset in `info` and put it back at each end of an episode; no randomness is drawn. A copy of Reacher, whose reset draws
# a new target, so sees one and the same target for as long as a training lasts, and 3 copies see 3. A good guess is
# that an episode begins as `reset` begins one, as in Gymnasium's vector envs. Evaluation with other keys shows it; the
# return of training does not. (brax/envs/wrappers/training.py, AutoResetWrapper.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "brax==0.14.2" "jax==0.10.2" "mujoco==3.3.7" "mujoco-mjx==3.3.7"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import jax
import numpy as np
from brax import envs

print(*(f"{name} {version(name)}" for name in ("brax", "jax")))

env = envs.create("reacher", episode_length=4, batch_size=3, auto_reset=True)
state = jax.jit(env.reset)(jax.random.PRNGKey(0))
step, seen = jax.jit(env.step), [np.asarray(state.obs)]
for _ in range(12):
    state = step(state, jax.numpy.zeros((3, env.action_size)))
    if bool(state.done.all()):
        seen.append(np.asarray(state.obs))
print("first observations of four episodes of copy 0:")
for obs in seen:
    print(obs[0, :6])
assert len(seen) == 4
assert all(np.array_equal(seen[0], obs) for obs in seen[1:])
assert not np.array_equal(seen[0][0], seen[0][1])  # copies differ
other = np.asarray(jax.jit(env.reset)(jax.random.PRNGKey(1)).obs)
print("and of a reset with another key:")
print(other[0, :6])
assert not np.array_equal(seen[0], other)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
