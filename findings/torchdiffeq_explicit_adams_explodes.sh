#!/usr/bin/env bash
# torchdiffeq's explicit_adams explodes on a plain decay, and the more so the smaller its steps are.
#
# torchdiffeq 0.2.5, torch 2.13.0, in float64: y' = -y for ten seconds, from 1 to 4.5e-5, by `odeint` with
# method="explicit_adams". With steps of 1 it ends at 4e3, with .1 at 3e30, with .01 at 2e90; only with .001 it is
# right. An oscillator does the same. With steps of .1 `euler`, `rk4` and `implicit_adams` are right to 1e-4. The
# order grows with the steps that were taken, up to 12, and the longest stable step of Adams-Bashforth about halves
# with each order: of order 12 it is some thousandth of a second here. With "max_order" 4 or 6 in the options, steps of
# .1 do. A good guess would be the order of 4 or 5 that such methods are commonly used with, and less error with
# smaller steps. Nothing warns. (_impl/fixed_adams.py, `_MAX_ORDER`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torchdiffeq==0.2.5" "torch==2.13.0" \
  "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import math
from importlib.metadata import version

import torch
from torchdiffeq import odeint

torch.set_default_dtype(torch.float64)
print("torchdiffeq", version("torchdiffeq"), "torch", version("torch"))
PROBLEMS = {
    "decay": (lambda t, y: -y, [1.0], math.exp(-10)),
    "oscillator": (lambda t, y: torch.stack([y[1], -y[0]]), [1.0, 0.0], math.cos(10)),
}


def error(problem, method, step, **options):
    slope, start, right = PROBLEMS[problem]
    times, options = torch.tensor([0.0, 10.0]), {"step_size": step, **options}
    return abs(odeint(slope, torch.tensor(start), times, method=method, options=options)[-1, 0].item() - right)


for problem in PROBLEMS:
    errors = {step: error(problem, "explicit_adams", step) for step in (1.0, 0.5, 0.1, 0.01, 0.001)}
    print(problem, "errors of explicit_adams:", {step: f"{e:.0e}" for step, e in errors.items()})
    assert 1e3 < errors[1.0] < errors[0.5] < errors[0.1] < errors[0.01] and errors[0.01] > 1e60
    assert errors[0.001] < 1e-6
others = {method: error("decay", method, 0.1) for method in ("euler", "midpoint", "rk4", "implicit_adams")}
others |= {f"order {order}": error("decay", "explicit_adams", 0.1, max_order=order) for order in (4, 6)}
print("decay, steps of .1:", {name: f"{e:.0e}" for name, e in others.items()})
assert max(others.values()) < 1e-4
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"
