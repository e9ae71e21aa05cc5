#!/usr/bin/env bash
# MJX's accelerometers, force sensors and sensors of motors read 0 for ever in a model that nothing can constrain.
#
# mujoco-mjx 3.17.0, mujoco 4.0.0, jax 0.10.2: a drone flies with a thrust of 15 N for its kilogram. MuJoCo's
# accelerometer reads 15, and so do its sensors of the motor's force and of the frame's acceleration. In MJX all three
# read 0, whatever the drone does, or what they read when the state was handed to `mjx.put_data`. With a floor 100 m
# below, which is never touched, they are MuJoCo's. Forward dynamics return early where there is no room for a
# constraint, before the sensors that wait for accelerations; those of position and velocity are right. A policy that
# flies by its IMU learns from zeros, and so does an arm without limits, contacts and friction loss that feels its
# torques. A good guess would be that a floor out of reach changes nothing. (mjx/_src/forward.py, `forward`:
# `efc_J.size == 0`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mujoco-mjx==3.17.0" "mujoco==4.0.0" \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import jax
import mujoco
import numpy as np
from mujoco import mjx

print(*(f"{name} {version(name)}" for name in ("mujoco-mjx", "mujoco", "jax")))
DRONE = """<mujoco><worldbody>{floor}<body name="drone"><freejoint/><geom type="box" size=".1 .1 .02" mass="1"/>
<site name="middle"/></body></worldbody><actuator><motor name="rotors" site="middle" gear="0 0 1 0 0 0"/></actuator>
<sensor><accelerometer site="middle"/><actuatorfrc actuator="rotors"/><framelinacc objtype="site" objname="middle"/>
<velocimeter site="middle"/></sensor></mujoco>"""
NAMES = ("accelerometer", "force of the motor", "acceleration of the frame", "speed")
UPWARD = [2, 3, 6, 9]


def fly(floor, carried=0.0):
    """Return what sensors say after 10 steps in MuJoCo and in MJX, and both velocities."""
    model = mujoco.MjModel.from_xml_string(DRONE.format(floor=floor))
    data = mujoco.MjData(model)
    data.ctrl[0], data.sensordata[:] = 15.0, carried
    mjx_model, mjx_data = mjx.put_model(model), mjx.put_data(model, data)
    step = jax.jit(mjx.step)
    for _ in range(10):
        mujoco.mj_step(model, data)
        mjx_data = step(mjx_model, mjx_data)
    assert np.allclose(data.qvel, mjx_data.qvel, atol=1e-5)
    return data.sensordata[UPWARD], np.asarray(mjx_data.sensordata)[UPWARD]


CASES = {
    "no floor": fly(""),
    "no floor, readings of 7 before": fly("", carried=7.0),
    "floor far below": fly('<geom type="plane" size="1 1 1" pos="0 0 -100"/>'),
}
for name, (in_c, in_mjx) in CASES.items():
    print(name + ":", *(f"{n} {a:.3f}, MJX {b:.3f};" for n, a, b in zip(NAMES, in_c, in_mjx)))
    assert np.allclose(in_c[:3], 15.0, atol=1e-3)
    expected = {"no floor": 0.0, "no floor, readings of 7 before": 7.0}.get(name)
    assert np.allclose(in_mjx[:3], in_c[:3] if expected is None else expected, atol=1e-4)
    assert np.allclose(in_mjx[3], in_c[3], atol=1e-4)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
