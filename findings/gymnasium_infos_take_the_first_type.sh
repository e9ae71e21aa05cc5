#!/usr/bin/env bash
# Numbers in the infos of a vector env are cut down to the type of the first env's.
#
# gymnasium 1.4.0: `SyncVectorEnv` and `AsyncVectorEnv` gather what single envs put into `info` into one
# array per key, whose dtype is that of the first value they meet: `int`. A float of a later env is
# truncated without a word: a distance of 0 in env 0 and .7 in env 1 is told as [0 0]; in the other order
# it is [.7 0.]. A good guess would be that NumPy's common type of all values decides, as for
# rewards. (vector/vector_env.py, `_add_info` and `_init_info_arrays`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv


class Tells(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, distance):
        self.distance = distance

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"distance": self.distance}


def zero():
    return Tells(0)


def more():
    return Tells(0.7)


def told(kind, functions):
    env = kind(functions)
    env.reset(seed=0)
    info = env.step(np.zeros(2, np.int64))[-1]
    env.close()
    return info["distance"].tolist(), info["_distance"].tolist()


if __name__ == "__main__":
    found = [told(kind, order) for kind in (SyncVectorEnv, AsyncVectorEnv) for order in ([zero, more], [more, zero])]
    print("gymnasium", gymnasium.__version__, found)
    assert found == [([0, 0], [True, True]), ([0.7, 0.0], [True, True])] * 2, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
