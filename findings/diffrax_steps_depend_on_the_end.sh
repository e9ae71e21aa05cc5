#!/usr/bin/env bash
# Diffrax's ConstantStepSize takes steps of other sizes than `dt0`, and which they are depends on where the solve ends.
#
# diffrax 0.7.2, jax 0.10.2: Euler's method on y' = y with dt0 = .1. To t1 = 1 all steps are .1. To t1 = 1.01 the
# first is .1, the second .0836 and the others .0918; to .21 they are .1, .04 and .07. The number of steps is rounded up
# and its fractions of the whole are the times of all steps but the first. So what is found at .5 depends on how far
# one goes on after it (1.6105 of an end at 1, 1.6149 of an end at 1.01), and has a derivative by t1, -.046 at 1.05.
# A control that switches at .5, which is on the grid of dt0, falls into a step's middle: its answer at 1, exact for
# an end at 1, is off by .051 for an end at 1.01. A good guess would be steps of dt0 and a shorter last one, as in
# torchdiffeq, and by the docs: "a constant step size, equal to the dt0 argument". A rollout by single steps, or by
# `StepTo`, has other numbers. (_step_size_controller/constant.py, `adapt_step_size`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "diffrax==0.7.2" "equinox==0.13.8" \
  "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
print(*(f"{name} {version(name)}" for name in ("diffrax", "equinox", "jax")))


def solve(end, saveat, slope=lambda t, y, args: y, start=1.0):
    term, steps = diffrax.ODETerm(slope), diffrax.ConstantStepSize()
    return diffrax.diffeqsolve(
        term, diffrax.Euler(), 0.0, end, 0.1, start, saveat=saveat, stepsize_controller=steps
    )


def value_at(time, end, **options):
    return solve(end, diffrax.SaveAt(ts=jnp.array([time])), **options).ys[0]


def switched(t, y, args):
    """The speed under a control that is 1 until .5 and 0 from then on."""
    return jnp.where(t < 0.5 - 1e-9, 1.0, 0.0)


sizes, values, answers = {}, {}, {}
for end in (1.0, 1.01, 1.05, 0.21):
    times = np.asarray(solve(end, diffrax.SaveAt(steps=True)).ts)
    sizes[end] = np.diff(times[np.isfinite(times)], prepend=0.0)
    print(f"to {end}: steps of {sizes[end].round(4).tolist()}", end="")
    if end >= 1:
        values[end] = float(value_at(0.5, end))
        answers[end] = float(value_at(1.0, end, slope=switched, start=0.0))
        print(f"; y(.5) = {values[end]:.4f}; with the control y(1) = {answers[end]:.4f}", end="")
    print()
assert np.allclose(sizes[1.0], 0.1)
assert np.allclose(sizes[1.01][:3], [0.1, 2 * 1.01 / 11 - 0.1, 1.01 / 11]) and len(sizes[1.01]) == 11
assert np.allclose(sizes[0.21], [0.1, 0.04, 0.07])
assert abs(values[1.0] - 1.1**5) < 1e-9 and values[1.01] - values[1.0] > 0.003
assert abs(answers[1.0] - 0.5) < 1e-9 and answers[1.01] - 0.5 > 0.03
slope = float(jax.grad(lambda end: value_at(0.5, end))(1.05))
print(f"derivative of y(.5) by an end at 1.05: {slope:.4f}")
assert -0.06 < slope < -0.03
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/check.py"
