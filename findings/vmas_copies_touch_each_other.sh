#!/usr/bin/env bash
# Whether two bodies touch in one copy of a VMAS world depends on the other copies.
#
# vmas 1.5.2, torch 2.13.0: a box or line pushes from a gap of .0067 on. Pairs are skipped, to save time, while their
# circumscribed circles are apart in all copies, and these circles do not count the gap. So beside the corner of a box or
# the end of a line there is a band in which nothing happens in a copy that is alone, or among copies that are far from
# contact, and a push if one of them, anywhere in the batch, is near. In `transport` an agent rests .004 off a corner of
# the package: alone it stays for ever; beside a copy in contact it is thrown .01 away within ten steps, and the package
# moves. So copies are not independent, and a state that is replayed or evaluated in 1 env does not go on as it did
# among 64. A good guess would be that a batch axis is just that, as it is for balls, whose forces end at their
# circles. (simulator/core.py, `World.collides`: `.any()`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "vmas==1.5.2" "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
import vmas

CORNER = 2**-0.5


def run(*starts: float) -> tuple[float, float]:
    """Return how far the first copy's agent is from the origin after ten steps, and the speed of its package."""
    env = vmas.make_env("transport", num_envs=len(starts), seed=0, n_agents=1, n_packages=1)
    env.reset()
    agent, package = env.agents[0], env.scenario.packages[0]
    package.set_pos(torch.zeros(len(starts), 2), batch_index=None)
    package.set_rot(torch.zeros(len(starts), 1), batch_index=None)
    agent.set_pos(CORNER * torch.tensor(starts)[:, None].expand(-1, 2), batch_index=None)
    for _ in range(10):
        env.step([torch.zeros(len(starts), 2)])
    return agent.state.pos[0].norm().item(), package.state.vel[0].norm().item()


reach = 0.15 * CORNER + 0.03  # of the package's circle and the agent's
cases = {"alone": (reach + 0.004,), "beside one far away": (reach + 0.004, 1.0), "beside one in contact": (reach + 0.004, 0.13)}
found = {name: run(*starts) for name, starts in cases.items()}
print("vmas", version("vmas"), "distance of the agent, speed of the package:", found)
still = found["alone"]
assert abs(still[0] - reach - 0.004) < 1e-6 and still[1] == 0
assert found["beside one far away"] == still
pushed = found["beside one in contact"]
assert pushed[0] > still[0] + 0.005 and pushed[1] > 0
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
