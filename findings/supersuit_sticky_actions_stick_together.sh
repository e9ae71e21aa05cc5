#!/usr/bin/env bash
# Under a seed, SuperSuit's sticky actions stick for all agents in the same steps.
#
# supersuit 3.11.0, pettingzoo 1.27.0: `sticky_actions_v0(env, .25)` repeats an agent's last action with that
# probability. Each agent has a generator of its own, and `reset(seed=7)` gives all of them the same seed: of four agents
# either all repeat or none does, always. What should be four agents' independent noise is one failure of all, which is
# another task (a team can do without any one of its members, but not without all). And `reset()` without a seed, as at
# every later episode, takes seeds from the operating system: from the second episode on a seeded run has other noise
# each time. A good guess would be independent draws from one seeded stream that goes on, as with Gymnasium's
# `StickyAction`. (generic_wrappers/sticky_actions.py; `nan_random_v0` is seeded alike.)
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

STEPS, AGENTS = 400, ["a", "b", "c", "d"]


class Recorder(ParallelEnv):
    metadata, render_mode, possible_agents = {"name": "recorder"}, None, AGENTS

    def observation_space(self, agent):
        return Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(STEPS)

    def told(self, value):
        return dict.fromkeys(AGENTS, value)

    def reset(self, seed=None, options=None):
        self.agents, self.taken = list(AGENTS), []
        return self.told(np.zeros(1, np.float32)), self.told({})

    def step(self, actions):
        self.taken.append([actions[agent] for agent in AGENTS])
        return self.told(np.zeros(1, np.float32)), self.told(0.0), self.told(False), self.told(False), self.told({})


def stuck(env, seed):
    """Return (step, agent) bool: the agent did again what it had done before."""
    env.reset(seed=seed)
    for step in range(STEPS):
        env.step(dict.fromkeys(AGENTS, step))
    return np.array(env.unwrapped.taken) != np.arange(STEPS)[:, None]


runs = [supersuit.sticky_actions_v0(Recorder(), 0.25) for _ in range(2)]
first, again = (stuck(env, 7) for env in runs)
second, second_again = (stuck(env, None) for env in runs)
print("supersuit", version("supersuit"), "repeated, of each agent:", first.mean(0), second.mean(0))
for name, rows in (("first", first), ("second", second)):
    print(name, "episode: all repeat", rows.all(1).mean(), "some but not all", (rows.any(1) & ~rows.all(1)).mean())
assert 0.15 < first.mean() < 0.35 and (first == first[:, :1]).all()
assert (second.any(1) & ~second.all(1)).mean() > 0.3
assert (first == again).all() and not (second == second_again).all()
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"
