#!/usr/bin/env bash
# Resetting one copy of a vector env starts the statistics of the others again.
#
# gymnasium 1.4.0: with `AutoresetMode.DISABLED` ended copies are reset by `reset(options={"reset_mask": mask})`.
# `RecordEpisodeStatistics` around `SyncVectorEnv` or `AsyncVectorEnv` means to clear the returns and lengths of these
# copies, but the vector env inside has taken the mask out of the same dict (`options.pop`) by the time that the wrapper
# looks, so that it clears all. Next to a copy whose episodes take 2 steps, episodes of 3 steps and a return of 3 are
# told as 1 step and a return of 1. `NormalizeReward` clears the discounted returns of all copies at every reset, mask
# or not, so that rewards of 1 next to short episodes are scaled otherwise than next to long ones. A good guess would
# be that copies which go on keep what they have.
# (vector/sync_vector_env.py, `reset`; wrappers/vector/common.py; wrappers/vector/stateful_reward.py.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import functools

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics


class Task(gymnasium.Env):
    """Pays 1 in each of `length` steps."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps >= self.length, False, {}


def run(wrap, kind, lengths, steps):
    """Return rewards and infos of every step."""
    functions = [functools.partial(Task, length) for length in lengths]
    env = wrap(kind(functions, autoreset_mode=AutoresetMode.DISABLED))
    env.reset(seed=0)
    told = []
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(np.zeros(len(lengths), np.int64))
        told.append((reward, info))
        ended = terminated | truncated
        if ended.any():
            env.reset(options={"reset_mask": ended})
    env.close()
    return told


if __name__ == "__main__":
    print("gymnasium", gymnasium.__version__)
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        beside_short = run(RecordEpisodeStatistics, kind, (2, 3), 3)[-1][1]["episode"]
        beside_long = run(RecordEpisodeStatistics, kind, (9, 3), 3)[-1][1]["episode"]
        found = [(int(e["l"][1]), float(e["r"][1])) for e in (beside_short, beside_long)]
        print(kind.__name__, "3 steps that pay 1 each, beside short and beside long episodes:", found)
        assert found == [(1, 1.0), (3, 3.0)], found
    rewards = [run(NormalizeReward, SyncVectorEnv, (other, 50), 40)[-1][0][1] for other in (2, 50)]
    print("the 40th reward, beside short and beside long episodes:", np.round(rewards, 3))
    assert rewards[0] > 1 and rewards[1] < 0.2, rewards
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
