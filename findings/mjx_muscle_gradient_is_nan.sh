#!/usr/bin/env bash
# MJX's gradient of a muscle is NaN unless the muscle has a `tausmooth`, which is 0 by default.
#
# mujoco-mjx 3.17.0, mujoco 4.0.0, jax 0.10.2: a step of one muscle has MuJoCo's own numbers, and `jax.grad` of the
# activation after it, with respect to the control, is NaN in float32, JAX's default; by finite differences it
# is .25. A smooth change between the time constants is computed even where its width is 0, and thrown away: there the
# excess of control over activation is divided by 1e-15 and raised to the fifth power, which float32 does not
# hold, and 0 times that infinity is NaN. Nothing warns. With `tausmooth=".1"`, or in float64, the gradient is finite
# and right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mujoco-mjx==3.17.0" "mujoco==4.0.0" \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import math
import sys

import jax
import jax.numpy as jnp
import mujoco
from mujoco import mjx

smooth, is_right = sys.argv[1], sys.argv[2] == "right"
model = mujoco.MjModel.from_xml_string(f"""
<mujoco><worldbody><body><joint name="hinge" axis="0 1 0"/><geom size=".1"/></body></worldbody>
<actuator><muscle joint="hinge" lengthrange="-1 1" force="10" {smooth}/></actuator></mujoco>""")
on_device, blank = mjx.put_model(model), mjx.make_data(model)


def activation(control):
    """After a step, of an activation of .2 before."""
    data = blank.replace(ctrl=control[None], act=jnp.array([0.2]))
    data = mjx.fwd_actuation(on_device, mjx.fwd_velocity(on_device, mjx.fwd_position(on_device, data)))
    return (data.act + model.opt.timestep * data.act_dot)[0]


def by_mujoco(control):
    data = mujoco.MjData(model)
    data.ctrl[0], data.act[0] = control, 0.2
    mujoco.mj_step(model, data)
    return data.act[0]


value, slope = (float(f(jnp.asarray(0.7))) for f in (activation, jax.grad(activation)))
numeric = (by_mujoco(0.701) - by_mujoco(0.699)) / 0.002
kind = blank.act.dtype
print(f"{smooth or 'as by default'}, {kind}: activation {value:.4f}, MuJoCo's {by_mujoco(0.7):.4f}; ", end="")
print(f"jax.grad {slope:.4f}, finite difference {numeric:.4f}")
assert abs(value - by_mujoco(0.7)) < 1e-5
assert math.isfinite(slope) == is_right
assert not is_right or abs(slope - numeric) < 1e-3
PYTHON
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" "$folder/check.py" "" nan
"$folder/venv/bin/python" "$folder/check.py" 'tausmooth=".1"' right
JAX_ENABLE_X64=1 "$folder/venv/bin/python" "$folder/check.py" "" right
