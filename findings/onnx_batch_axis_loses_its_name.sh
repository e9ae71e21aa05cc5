#!/usr/bin/env bash
# Dim("batch") of torch.export does not name the axis in the ONNX file made of it.
#
# torch 2.13.0, onnxscript 0.7.2: an ExportedProgram whose first axis is Dim("batch") becomes an ONNX
# graph whose axis is called "s" and a number. `torch.onnx.export` says that dynamic_shapes is for
# modules, not for programs exported before; yet given {"obs": {0: "batch"}} again, it restores the
# name. In the module, `len(obs)` makes the same export fail, as it fixes the size; `obs.shape[0]`
# does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "torch==2.13.0" "onnxscript==0.7.2" "onnx==1.23.2" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import warnings

import torch
from torch.export import Dim

warnings.simplefilter("ignore")


class Policy(torch.nn.Module):
    def __init__(self, by_len):
        super().__init__()
        self.layer, self.by_len = torch.nn.Linear(3, 2), by_len

    def forward(self, obs):
        rows = len(obs) if self.by_len else obs.shape[0]
        return self.layer(obs).reshape(rows, 1, 2)


def exported(by_len):
    sizes = {"obs": {0: Dim("batch")}}
    return torch.export.export(Policy(by_len), (torch.zeros(4, 3),), dynamic_shapes=sizes)


def axis(**more):
    made = torch.onnx.export(exported(False), dynamo=True, verbose=False, **more)
    (obs,) = made.model_proto.graph.input
    return obs.type.tensor_type.shape.dim[0].dim_param


plain, told = axis(), axis(dynamic_shapes={"obs": {0: "batch"}})
print("torch", torch.__version__.split("+")[0], "axis:", plain, "told again:", told)
assert plain != "batch" and plain.startswith("s"), plain
assert told == "batch", told
try:
    exported(True)
    failed = ""
except Exception as error:
    failed = str(error)
print("by len(obs):", next((l for l in failed.splitlines() if "specialized" in l), "exported")[:100])
assert "specialized" in failed or "constant" in failed, failed
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/check.py"
