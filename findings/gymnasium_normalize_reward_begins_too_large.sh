#!/usr/bin/env bash
# `NormalizeReward` multiplies the first rewards by a hundred and more, and joins truncated episodes into one.
#
# gymnasium 1.4.0: every step is rewarded with 1. Through the wrapper the first reward is 71, the second 2, and the rest
# fall below 1; of a vector env the first is 71 times the root of its number of envs, 566 of 64. Rewards of 1000
# begin at 100. The variance starts as 1 with the weight of a ten-thousandth of a step, so that after a step of equal
# rewards it is next to nothing. No reward is clipped (in Stable-Baselines3's VecNormalize they are, to 10), and
# one step of the first rollout outweighs all others. And the discounted return, by whose spread rewards are divided,
# starts again at a termination but not at a truncation or at `reset`: episodes of 5 steps that a time limit ends count
# as one without an end. After 1000 steps a reward of 1 comes to .05, and to .73 where the same five steps end by a
# termination. A good guess would be rewards of about size 1 from the start, in either case.
# (wrappers/stateful_reward.py; Farama-Foundation/Gymnasium issue 1507 has the truncations.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward


class Same(gymnasium.Env):
    """The same reward in each of five steps."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, reward=1.0, terminates=False):
        self.reward, self.terminates = reward, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps == 5
        terminated = ended and self.terminates
        return np.zeros(1, np.float32), self.reward, terminated, ended and not terminated, {}


def rewards(steps, **options):
    env = NormalizeReward(Same(**options))
    env.reset(seed=0)
    seen = []
    for _ in range(steps):
        _, reward, terminated, truncated, _ = env.step(0)
        seen.append(float(reward))
        if terminated or truncated:
            env.reset()
    return np.array(seen)


vector = VectorNormalizeReward(SyncVectorEnv([Same] * 64))
vector.reset(seed=0)
many = vector.step(np.zeros(64, int))[1]
cut, large, ended = rewards(1000), rewards(5, reward=1000.0), rewards(1000, terminates=True)
print("gymnasium", gymnasium.__version__, "rewards of 1:", cut[:4].round(3), "of 1000:", large[:4].round(3))
print("first of 64 envs:", many.min().round(1), "to", many.max().round(1))
print("after 1000 steps, truncated:", cut[-1].round(3), "terminated:", ended[-1].round(3))
assert 70 < cut[0] < 71 and 2 < cut[1] < 2.1 and (cut[3:] < 1).all()
assert 100 < large[0] < 101 and 2 < large[1] < 2.1
assert 560 < many.min() and many.max() < 570
assert cut[-1] < 0.06 and ended[-1] > 0.7
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
