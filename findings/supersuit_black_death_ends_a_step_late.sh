#!/usr/bin/env bash
# SuperSuit's black_death lets no episode end when it ends, and adds a step that never was.
#
# supersuit 3.11.0, pettingzoo 1.27.0: the wrapper keeps agents that have left, with observations and rewards of 0, until
# the episode is over. It holds that for over when all agents have terminated *and* been truncated
# (`terminations & truncations`), which no env tells. At the last of four steps, be it by a goal or by a time limit,
# nothing is done. The next step moves no agent, returns 0 for every observation and reward, and ends the
# episode with both flags. Returns are the same; but every episode is longer by a step, the last state is worth what
# a network says of an observation of zeros, or nothing, and a time limit is told as a termination, so that a learner
# cannot bootstrap. A good guess would be the env's own flags in its own last step. (multiagent_wrappers/black_death.py)
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
    """Shows the time, pays 1 a step and ends after four; `first` leaves after two."""

    metadata, render_mode, possible_agents = {"name": "clock"}, None, ["first", "second"]

    def __init__(self, terminates):
        self.terminates = terminates

    def observation_space(self, agent):
        return Box(0, 10, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def told(self, value):
        return dict.fromkeys(self.agents, value)

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.told(np.zeros(1, np.float32)), self.told({})

    def step(self, actions):
        self.time += 1
        over, obs = self.time == 4, self.told(np.array([self.time], np.float32))
        terminated, truncated = self.told(over and self.terminates), self.told(over and not self.terminates)
        if self.time == 2:
            terminated["first"] = True
        rewards, infos = self.told(1.0), self.told({})
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        return obs, rewards, terminated, truncated, infos


def episode(env):
    """Return (observation, reward, terminated, truncated) of `second` in each step."""
    env.reset(seed=0)
    rows = []
    while env.agents:
        told = env.step(dict.fromkeys(env.agents, 0))
        rows.append(tuple(float(np.squeeze(part["second"])) for part in told[:4]))
    return rows


print("supersuit", version("supersuit"), "observation, reward, terminated, truncated of the one that stays:")
for terminates in (True, False):
    plain, wrapped = episode(Clock(terminates)), episode(supersuit.black_death_v3(Clock(terminates)))
    print(*plain, "and wrapped", *wrapped, sep="\n")
    assert plain[3:] == [(4, 1, terminates, not terminates)]
    assert wrapped[3:] == [(4, 1, False, False), (0, 0, True, True)]
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"
