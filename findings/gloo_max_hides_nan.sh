#!/usr/bin/env bash
# `all_reduce` with MAX or MIN by gloo loses a NaN, or keeps it, by where in the tensor it stands.
#
# torch 2.13.0 (CPU), `torchrun --nproc-per-node 2`: rank 0 has 8 times 1.0, rank 1 8 times NaN. SUM
# gives 8 NaN. MAX and MIN give 1.0 four times and NaN four times, equal on both ranks; of a tensor
# of one number, such as a loss, the NaN is gone. torch.maximum, Tensor.max and MAX of NumPy all
# return NaN, so that a check such as "the largest loss of all ranks is finite" passes while a rank
# has diverged. The two halves are compared in opposite order, and `a < b` is False for NaN.
# Summing finds it, and so does the MAX of an integer flag.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import torch
from torch import distributed
from torch.distributed import ReduceOp

distributed.init_process_group("gloo")
rank = distributed.get_rank()
found = {}
for size in (1, 8):
    for name in ("SUM", "MAX", "MIN"):
        value = torch.full((size,), float("nan") if rank == 1 else 1.0)
        distributed.all_reduce(value, getattr(ReduceOp, name))
        found[f"{name} of {size}"] = int(value.isnan().sum())
print("torch", torch.__version__.partition("+")[0], "rank", rank, "NaN in", found, flush=True)
assert torch.maximum(torch.tensor(1.0), torch.tensor(torch.nan)).isnan()
assert found == {
    "SUM of 1": 1,
    "MAX of 1": 0,
    "MIN of 1": 0,
    "SUM of 8": 8,
    "MAX of 8": 4,
    "MIN of 8": 4,
}, found
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 \
	"$folder/check.py"
