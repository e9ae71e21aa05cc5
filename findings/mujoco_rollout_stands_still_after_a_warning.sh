#!/usr/bin/env bash
# After MuJoCo's first warning, the rest of a rollout is one state repeated.
#
# mujoco 4.0.0: `mujoco.rollout` of three copies of a pendulum, of which one gets NaN as its control in the fifth of
# ten steps. `mj_step` takes a control that is NaN or beyond 1e10 for 0 in that step, warns, and goes on. The rollout ends
# there: the fifth to the tenth row of states and sensors are the same numbers, clock included, with the velocity of a
# pendulum that swings. There is no flag, no error and no NaN, and the other copies are as ever. So are all other
# warnings, also those of a full buffer of contacts, with which a simulation is still usable. Returns that are
# computed from such rows pay for standing still. A good guess would be what a loop over `mj_step` gives, which the
# rollout otherwise equals to the last bit. That the clock stands tells.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mujoco==4.0.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import mujoco
import numpy as np
from mujoco import rollout

PENDULUM = """<mujoco><worldbody><body><joint name="hinge" axis="0 1 0" damping=".1"/>
<geom type="capsule" fromto="0 0 0 0 0 -.5" size=".05"/></body></worldbody>
<actuator><motor joint="hinge"/></actuator><sensor><jointpos joint="hinge"/></sensor></mujoco>"""
model = mujoco.MjModel.from_xml_string(PENDULUM)
full = mujoco.mjtState.mjSTATE_FULLPHYSICS
control = np.ones((3, 10, 1))
control[1, 4] = np.nan
start = np.zeros((1, mujoco.mj_stateSize(model, full)))
states, sensors = rollout.rollout(model, mujoco.MjData(model), start, control)


def loop(controls):
    data, rows = mujoco.MjData(model), np.empty((10, start.shape[1]))
    for row, data.ctrl[:] in zip(rows, controls):
        mujoco.mj_step(model, data)
        mujoco.mj_getState(model, data, row, full)
    return rows


print("mujoco", mujoco.__version__, "clock of the three copies:", *states[:, :, 0], sep="\n")
stepped = [loop(controls) for controls in control]
print("hinge at the end, rolled out and stepped:", states[1, -1, 1], stepped[1][-1, 1])
assert np.isfinite(states).all() and np.isfinite(stepped).all()
assert all(np.array_equal(states[i], stepped[i]) for i in (0, 2))
assert np.array_equal(states[1, :5], stepped[1][:5])
assert (states[1, 5:] == states[1, 4]).all() and (sensors[1, 5:] == sensors[1, 4]).all()
assert abs(states[1, -1, 2]) > 0 and stepped[1][-1, 1] > 3 * states[1, -1, 1]
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/check.py"
