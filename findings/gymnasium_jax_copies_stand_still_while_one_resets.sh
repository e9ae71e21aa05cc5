#!/usr/bin/env bash
# While one copy of Gymnasium's JAX envs resets, all other copies stand still.
#
# gymnasium 1.4.0, jax 0.10.2: in `gymnasium.make_vec("phys2d/CartPole-v1", num_envs=N)` the new states of copies that
# ended in the last step are put into the states as they were *before* this step, so that what the others did in it is
# thrown away: their actions have no effect and their observations repeat, though they are paid for it, and the step
# counts. A pole that would have fallen in such a step is told to have, while it is seen standing. The more copies, the
# more resets: of random actions none is lost in 1 copy, a fifth in 8 and half in 64, where an episode takes, and pays,
# 41 steps in place of 22. A good guess would be one copy's dynamics whatever the others do, as in Gymnasium's NumPy
# `CartPole-v1`, whose steps none is lost of. (envs/functional_jax_env.py, `step`: `self.state.at[to_reset]`, where
# `next_state` is meant.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "gymnasium==1.4.0" "jax==0.10.2" \
  "flax==0.12.8" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import gymnasium
import jax
import numpy as np

BOUNDS = np.array([2.4, np.inf, 12 * np.pi / 180, np.inf])


def run(name, num_envs, steps=300):
    """Return the share of steps without effect, the mean length of an episode, and falls seen within the bounds."""
    env = gymnasium.make_vec(name, num_envs=num_envs)
    before = np.asarray(env.reset(seed=0)[0])
    rng, ended = np.random.default_rng(0), np.zeros(num_envs, bool)
    still = going = ends = within = 0
    for _ in range(steps):
        told = env.step(rng.integers(2, size=num_envs))[:4]
        obs, _, terminated, truncated = map(np.asarray, told)
        same = (obs == before).all(axis=1)[~ended]
        if name.startswith("phys2d"):
            assert same.all() if ended.any() else not same.any()
        still, going = still + same.sum(), going + same.size
        within += (terminated & (abs(obs) <= BOUNDS).all(axis=1)).sum()
        before, ended = obs, terminated | truncated
        ends += ended.sum()
    return float(still / going), float(going / ends), int(within)


found = {}
for num_envs in (1, 8, 64):
    for name in ("phys2d/CartPole-v1", "CartPole-v1"):
        lost, length, within = found[name, num_envs] = run(name, num_envs)
        print(f"{name} {num_envs}: {lost:.2f} of steps lost, {length:.1f} steps an episode, {within} falls unseen")
print("gymnasium", gymnasium.__version__, "jax", jax.__version__)
assert all(lost == within == 0 for (name, _), (lost, _, within) in found.items() if name == "CartPole-v1")
alone, few, many = (found["phys2d/CartPole-v1", num_envs] for num_envs in (1, 8, 64))
assert alone[0] == 0 and few[0] > 0.1 and many[0] > 0.35
assert alone[1] < 25 and many[1] > 35 and many[2] > 0
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
