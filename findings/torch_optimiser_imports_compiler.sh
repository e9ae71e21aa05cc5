#!/usr/bin/env bash
# Making the first optimiser of a process imports PyTorch's compiler.
#
# torch 2.13.0 (CPU): `import torch` leaves `torch._dynamo` alone. `torch.optim.Adam([parameter])`
# imports it, with about 800 further modules (sympy among them) and 1 to 2 CPU-seconds, though nothing
# is compiled: a decorator around `add_param_group` switches the compiler off for the call, and looks
# it up to do so. `fused=True`, `foreach=False` and SGD do the same. So a run of a second, a worker
# process or a test that only wants one Adam step pays for the import once; a good guess would be that
# the price is in `import torch`, or comes with `torch.compile`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import sys
import time

import torch

OPTIMISERS = {
    "Adam": lambda weights: torch.optim.Adam(weights),
    "Adam, fused": lambda weights: torch.optim.Adam(weights, fused=True),
    "SGD, foreach=False": lambda weights: torch.optim.SGD(weights, foreach=False),
}
make = OPTIMISERS[sys.argv[1]]
before, modules, start = "torch._dynamo" in sys.modules, len(sys.modules), time.process_time()
make([torch.nn.Parameter(torch.zeros(3))])
found = (before, "torch._dynamo" in sys.modules, "sympy" in sys.modules)
more, used = len(sys.modules) - modules, time.process_time() - start
print(f"torch {torch.__version__} {sys.argv[1]}: {more} more modules, {used:.1f} CPU-s")
assert found == (False, True, True) and more > 300, (found, more)
PYTHON
for optimiser in "Adam" "Adam, fused" "SGD, foreach=False"; do
	"$folder/venv/bin/python" "$folder/check.py" "$optimiser"
done
