#!/usr/bin/env bash
# Whether JAX shares a tensor's memory or copies it depends on the tensor's address, row by row.
#
# jax 0.10.2, torch 2.13.0, on the CPU: the eight rows of a rollout buffer, of four float32 each, are handed to JAX by
# `jax.dlpack.from_dlpack`, and then the buffer is written over, as for the next rollout. Rows 0 and 4, which begin at
# multiples of 64 bytes, have the new numbers, in arrays that are called immutable; the other six keep the old ones. With
# sixteen numbers a row, all rows change. `jax.device_put` of the rows of a NumPy array does the same. So code that is
# right with one size of observations is wrong with another, and nothing warns; `from_dlpack(..., copy=False)` refuses
# the six. `jnp.asarray` of NumPy's rows copies all of them. A good guess would be that DLPack always shares
# and `device_put` always copies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2" \
  "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import torch


def of_numpy(rows, size):
    """Zeros that start at a multiple of 64 bytes, as PyTorch's tensors do."""
    memory = np.zeros(rows * size + 16, np.float32)
    start = -memory.ctypes.data % 64 // memory.itemsize
    return memory[start : start + rows * size].reshape(rows, size)


def changed(take, buffer):
    """The rows that JAX sees change when the buffer is written over."""
    taken = [jax.block_until_ready(take(row)) for row in buffer]
    buffer += 1
    return [i for i, row in enumerate(taken) if row[0] == 1]


def refused(buffer):
    rows = []
    for i, row in enumerate(buffer):
        try:
            jax.dlpack.from_dlpack(row, copy=False)
        except ValueError as error:
            assert "not aligned to 64 bytes" in str(error), error
            rows.append(i)
    return rows


found = {
    "from_dlpack, rows of 4": changed(jax.dlpack.from_dlpack, torch.zeros(8, 4)),
    "from_dlpack, rows of 16": changed(jax.dlpack.from_dlpack, torch.zeros(8, 16)),
    "device_put, rows of 4": changed(jax.device_put, of_numpy(8, 4)),
    "device_put, rows of 16": changed(jax.device_put, of_numpy(8, 16)),
    "asarray, rows of 16": changed(jnp.asarray, of_numpy(8, 16)),
    "refused by copy=False, rows of 4": refused(torch.zeros(8, 4)),
}
print("jax", jax.__version__, "torch", torch.__version__.partition("+")[0], "rows that change:")
for name, rows in found.items():
    print(f"  {name}: {rows}")
assert found == {
    "from_dlpack, rows of 4": [0, 4],
    "from_dlpack, rows of 16": [0, 1, 2, 3, 4, 5, 6, 7],
    "device_put, rows of 4": [0, 4],
    "device_put, rows of 16": [0, 1, 2, 3, 4, 5, 6, 7],
    "asarray, rows of 16": [],
    "refused by copy=False, rows of 4": [1, 2, 3, 5, 6, 7],
}
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/check.py"
