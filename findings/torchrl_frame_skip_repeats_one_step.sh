#!/usr/bin/env bash
# TorchRL's FrameSkipTransform takes one step and pays it four times where an env keeps its state in the data.
#
# torchrl 0.11.1, torch 2.13.0: each of the repeated steps gets the data of the first, action and state. An env that
# keeps its state itself, as Gymnasium's do, goes on; one whose `step` is a function of state and action, as
# TorchRL's own `PendulumEnv` is and the classes for Brax and Jumanji are, takes the same step again. With
# `FrameSkipTransform(4)` a pendulum under the same actions moves exactly as without, and every reward is four times
# as large: nothing is skipped, nothing runs faster, and no shape tells. Where steps do go on, they go on past the end:
# a walk of one place a step, whose goal is place 5, is said to be at 4, 8 and 12, for a reward of 4 each, and
# never to have ended. A good guess would be four steps, and a stop at the end, as Gymnasium's Atari
# wrapper does. (envs/transforms/transforms.py, `FrameSkipTransform._step`: `parent._step(tensordict)`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "torchrl==0.11.1" \
  "tensordict==0.11.0" "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import gymnasium
import numpy as np
import torch
from torchrl.envs import FrameSkipTransform, GymEnv, GymWrapper, PendulumEnv, TransformedEnv

print("torchrl", version("torchrl"), "torch", version("torch"))


def pendulum(skipped, kind):
    """Return the angles (Gymnasium's: their cosines) and the rewards of three steps; the same actions in each call."""
    env = TransformedEnv(kind(), FrameSkipTransform(skipped))
    env.set_seed(0)
    torch.manual_seed(0)
    rollout = env.rollout(3)
    seen = rollout["next"].get("th", rollout["next"].get("observation"))
    return seen.reshape(3, -1)[:, 0], rollout["next", "reward"].flatten()


for kind in (PendulumEnv, lambda: GymEnv("Pendulum-v1")):
    (one, paid), (four, paid_of_four) = pendulum(1, kind), pendulum(4, kind)
    same = torch.equal(one, four)
    print("state in the data" if kind is PendulumEnv else "Gymnasium", one.tolist(), "by four", four.tolist())
    print("  rewards", paid.tolist(), "by four", paid_of_four.tolist())
    assert same == (kind is PendulumEnv)
    assert torch.allclose(paid_of_four, 4 * paid) == (kind is PendulumEnv)


class Walk(gymnasium.Env):
    """One place a step; the goal is place 5."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1
        return np.full(1, self.place, np.float32), 1.0, self.place == 5, False, {}


for skipped, expected in ((1, [1, 2, 3, 4, 5]), (4, [4, 8, 12])):
    rollout = TransformedEnv(GymWrapper(Walk()), FrameSkipTransform(skipped)).rollout(3 if skipped == 4 else 10)["next"]
    places, done = rollout["observation"].flatten().tolist(), rollout["done"].flatten().tolist()
    print("walk by", skipped, places, "rewards", rollout["reward"].flatten().tolist(), "done", done)
    assert places == expected
    assert any(done) == (skipped == 1)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"
