#!/usr/bin/env bash
# A drone in VMAS moves as fast as it should accelerate.
#
# vmas 1.5.2, torch 2.13.0: `Drone` integrates a quadrotor's twelve states and then asks the world for the force that
# makes its step. It takes the changes of velocity for those of position, and the change of the yaw rate for that of
# the yaw, so that the world's velocity is the model's acceleration: one second at a tilt of .1, an acceleration of .98,
# brings the drone .98 far and not .49; level again it stands still at once, while its own `drone_state` flies on at
# .98. What agents see and are paid for is the world, and a gradient through it is that of a system with one
# integration less. A good guess would be s = a t^2 / 2, as the equations in the class say.
# (simulator/dynamics/drone.py, `process_action`: entries 6, 7 and 5 of `delta_state`; 9, 10 and 2 are position and yaw.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "vmas==1.5.2" "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
import vmas
from vmas.simulator.core import Agent, World
from vmas.simulator.dynamics.drone import Drone
from vmas.simulator.scenario import BaseScenario

PITCH, MODEL_VELOCITY = 1, 6


class Hover(BaseScenario):
    def make_world(self, batch_dim, device, **options):
        world = World(batch_dim, device, dt=0.1, drag=0)
        world.add_agent(Agent("drone", u_multiplier=[1] * 4, dynamics=Drone(world)))
        return world

    def reset_world_at(self, env_index=None):
        self.world.agents[0].dynamics.reset(env_index)

    def observation(self, agent):
        return agent.state.pos

    def reward(self, agent):
        return torch.zeros(self.world.batch_dim)


env = vmas.make_env(Hover(), num_envs=1, seed=0)
env.reset()
agent, found = env.agents[0], {}
for name, tilt in (("tilted", 0.1), ("level again", 0.0)):
    agent.dynamics.drone_state[:, PITCH] = tilt
    for _ in range(10):
        env.step([torch.zeros(1, 4)])
    model = agent.dynamics.drone_state[0, MODEL_VELOCITY].item()
    found[name] = [round(x, 2) for x in (agent.state.pos[0, 0].item(), agent.state.vel[0, 0].item(), model)]
print("vmas", version("vmas"), "position, velocity and the model's velocity after a second each:", found)
assert found == {"tilted": [0.98, 0.98, 0.98], "level again": [0.98, 0.0, 0.98]}, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
