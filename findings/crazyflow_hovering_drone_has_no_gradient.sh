#!/usr/bin/env bash
# Crazyflow's gradient of a drone that hovers is 0 for every tilt that is commanded.
#
# crazyflow 0.4.0, jax 0.10.1: a drone that hangs in the air is told by how much to pitch. Where it is after 100 steps has
# the derivative .042 by that command, and its orientation .41, by finite differences; `jax.grad` of the simulator, which
# is made to be differentiated, says exactly 0 for both, of the whole flight, with either model of the dynamics
# (`so_rpy`, the default of its envs, and `first_principles`). A command of 1e-4 is enough for the right numbers. Turning
# rates of 0 are replaced by a constant before a rotation is made of them, against NaN. A reset leaves drones at rest
# and level, so that gradient steps on a plan of zeros, or on a policy whose outputs begin at 0, change the
# thrust alone. A good guess would be .042: the motion is smooth there. (sim/integration.py, `_integrate`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "crazyflow==0.4.0" "jax==0.10.1" \
  "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import crazyflow.sim.functional as F
import jax
import jax.numpy as jnp
import numpy as np
from crazyflow.control import Control
from crazyflow.dynamics import Dynamics
from crazyflow.sim import Sim

print("crazyflow", version("crazyflow"), "jax", version("jax"))
for dynamics, expected in ((Dynamics.so_rpy, (0.042, 0.407)), (Dynamics.first_principles, (0.031, 0.374))):
    sim = Sim(n_worlds=1, n_drones=1, dynamics=dynamics, control=Control.attitude)
    step, start = sim.build_step_fn(), sim.data
    states = start.states
    start = start.replace(states=states.replace(pos=states.pos.at[..., 2].set(1.0)))
    lift = 9.81 * float(np.ravel(start.params.mass)[0])

    def fly(pitch):
        """Return how far the drone has come, and the second entry of its quaternion."""
        data = F.attitude_control(start, jnp.array([[[0.0, pitch, 0.0, lift]]]))
        states = step(data, 100).states
        return jnp.array([states.pos[0, 0, 0], states.quat[0, 0, 1]])

    finite = (fly(1e-3) - fly(-1e-3)) / 2e-3
    jacobian = jax.jit(jax.jacrev(fly))
    print(dynamics, "finite differences", finite, "of no pitch", jacobian(0.0), "of .0001", jacobian(1e-4))
    assert np.allclose(finite, expected, atol=1e-3)
    assert (np.asarray(jacobian(0.0)) == 0).all()
    assert np.allclose(jacobian(1e-4), finite, rtol=1e-3)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
