#!/usr/bin/env bash
# A deep copy of a running MuJoCo env is a new one.
#
# gymnasium 1.4.0: `copy.deepcopy` of `HalfCheetah-v5` in the midst of an episode gives an env that
# stands at the initial state, without a word; its next step is not the original's. The robots inherit
# `EzPickle`, which copies (and pickles) the arguments of the constructor only. CartPole, of the same
# library, is copied with its state, as one would guess of both. What is copied of the wrappers around
# it, such as the steps that `TimeLimit` has counted, is the running episode's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	"gymnasium[mujoco]==1.4.0" "mujoco==4.0.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import copy

import gymnasium
import numpy as np


def copied(name, state):
    env = gymnasium.make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        env.step(env.action_space.sample())
    twin = copy.deepcopy(env)
    same = bool(np.allclose(state(env.unwrapped), state(twin.unwrapped)))
    return same, twin._elapsed_steps if hasattr(twin, "_elapsed_steps") else None


found = {
    "CartPole-v1": copied("CartPole-v1", lambda env: np.array(env.state)),
    "HalfCheetah-v5": copied("HalfCheetah-v5", lambda env: env.data.qpos.copy()),
}
print("gymnasium", gymnasium.__version__, found)
assert found["CartPole-v1"][0] and not found["HalfCheetah-v5"][0], found
assert found["HalfCheetah-v5"][1] == 5, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
