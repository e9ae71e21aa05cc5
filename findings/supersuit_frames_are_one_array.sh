#!/usr/bin/env bash
# SuperSuit's stacked observations are one array per agent, written over in every step.
#
# supersuit 3.11.0, pettingzoo 1.27.0: `frame_stack_v1` and `frame_stack_v2` return the array in which they keep the
# frames. The observation that an agent acted on shows, one step later, what came of it: `obs` and `next_obs` are the
# same object, and a list of an episode's observations holds the last one many times. A model of the dynamics fits
# "nothing ever moves" perfectly. (`concat_vec_envs_v1` copies; a loop over the parallel env does not.)
# And observations with two axes, stacked with `stack_dim=0`, never show the newest frame as the last one: that stays as
# it was after the reset, zeros for `frame_stack_v1`, and the older places all hold the newest frame, so that no
# motion can be seen. With `stack_dim=-1`, or one or three axes, frames are in order. A good guess would be new arrays
# that hold the last frames, oldest first. (utils/frame_stack.py, `stack_obs`)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "supersuit==3.11.0" "pettingzoo==1.27.0" \
  "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import supersuit
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Clock(ParallelEnv):
    metadata, render_mode, possible_agents = {"name": "clock"}, None, ["agent"]

    def __init__(self, *shape):
        self.shape = shape

    def observation_space(self, agent):
        return Box(0, 10, self.shape, np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def seen(self):
        return {"agent": np.full(self.shape, self.time, np.float32)}

    def reset(self, seed=None, options=None):
        self.agents, self.time = ["agent"], 1
        return self.seen(), {"agent": {}}

    def step(self, actions):
        self.time += 1
        return self.seen(), {"agent": 0.0}, {"agent": False}, {"agent": False}, {"agent": {}}


def frames(obs):
    """Return one number of each of the three frames."""
    return obs if obs.ndim == 1 else obs[0, 0] if obs.shape[-1] == 3 else obs[:, 0, 0]


def run(wrap, shape, keep, **options):
    """Return the frames of five observations, of which `keep` has kept each."""
    env = wrap(Clock(*shape), stack_size=3, **options)
    kept = [keep(env.reset(seed=0)[0]["agent"])]
    kept += [keep(env.step({"agent": 0})[0]["agent"]) for _ in range(4)]
    return [frames(obs).tolist() for obs in kept]


print("supersuit", version("supersuit"))
for wrap, oldest in ((supersuit.frame_stack_v1, 0), (supersuit.frame_stack_v2, 1)):
    kept, copied = run(wrap, (1,), lambda obs: obs), run(wrap, (1,), np.copy)
    plane, deep = run(wrap, (2, 2), np.copy, stack_dim=0), run(wrap, (2, 2), np.copy, stack_dim=-1)
    print(wrap.__name__, "kept", kept, "copied", copied, "planes", plane, "planes, last axis", deep, sep="\n")
    assert kept == [[3, 4, 5]] * 5
    assert copied == deep == [[oldest, oldest, 1], [oldest, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert plane == [[now, now, 0] for now in (1, 2, 3, 4, 5)]
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"
