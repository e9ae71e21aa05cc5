#!/usr/bin/env bash
# In MJX, the gradient of a free body's orientation is 0 as long as the body does not turn.
#
# mujoco-mjx 3.17.0, mujoco 4.0.0, jax 0.10.2: a drone of one free joint hovers: lift 9.81, torque 0. After 30
# steps its place has the derivative 1.02 by the torque, its tilt 6.7, by finite differences; JAX, backward and forward,
# says exactly 0 for both, of the whole flight and not just its first step. With a torque of 1e-6 it is right to six
# digits. A quaternion is turned by the axis and the length of the angular velocity; at 0 (and below 1e-8) both are
# replaced by constants lest a gradient be NaN. So whatever starts at rest under a policy whose outputs begin at
# 0, and an optimised plan that starts from "do nothing", never learns to tilt, and nothing warns. Hinges are not
# concerned; free and ball joints are. A good guess would be the limit, 1.02: the motion is smooth there.
# (mjx/_src/math.py, `norm`, `normalize_with_norm` and `quat_integrate`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mujoco-mjx==3.17.0" "mujoco==4.0.0" \
  "jax==0.10.2" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

DRONE = """<mujoco><option timestep=".01"/><worldbody><body pos="0 0 1"><freejoint/>
<geom type="box" size=".1 .1 .02" mass="1"/><site name="rotors"/></body></worldbody><actuator>
<motor site="rotors" gear="0 0 1 0 0 0"/><motor site="rotors" gear="0 0 0 0 1 0"/></actuator></mujoco>"""
model = mujoco.MjModel.from_xml_string(DRONE)
mjx_model, start = mjx.put_model(model), mjx.put_data(model, mujoco.MjData(model))
POSITION_AND_TILT = np.array([0, 5])


def fly(torque):
    def step(data, _):
        return mjx.step(mjx_model, data.replace(ctrl=jnp.array([9.81, torque]))), None

    return jax.lax.scan(step, start, None, length=30)[0].qpos[POSITION_AND_TILT]


def fly_in_c(torque):
    data = mujoco.MjData(model)
    for _ in range(30):
        data.ctrl[:] = [9.81, torque]
        mujoco.mj_step(model, data)
    return data.qpos[POSITION_AND_TILT]


finite = (fly_in_c(1e-5) - fly_in_c(-1e-5)) / 2e-5
backward, forward = jax.jit(jax.jacrev(fly)), jax.jit(jax.jacfwd(fly))
print("mujoco-mjx", version("mujoco-mjx"), "jax", version("jax"), "finite differences", finite)
for torque in (0.0, 1e-6):
    print("torque", torque, "backward", backward(torque), "forward", forward(torque))
assert np.allclose(finite, [1.0176, 6.7067], atol=1e-3)
for gradient in (backward, forward):
    assert (np.asarray(gradient(0.0)) == 0).all()
    assert np.allclose(gradient(1e-6), finite, rtol=1e-5)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
