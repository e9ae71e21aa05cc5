#!/usr/bin/env bash
# ONNX Runtime's noise is the same in every session, and neighbouring seeds give each other's noise.
#
# onnxruntime 1.32.0 (CPU): the stream of a random node begins at the seed of the process plus the node's place in the
# graph. (1) Two sessions of one process draw the same numbers though nobody has set a seed: stochastic policies that
# are exported one per agent explore alike. (2) Under `set_seed(8)` the first node draws what the second one draws under
# `set_seed(7)`, so that runs over seeds are one run, shifted; under `set_seed(0)` both draw the same. (3) The
# generator is C++'s `minstd_rand0`, whose first number is 16807 times the seed, of 2^31: the first uniform number is
# below .008 for each seed from 1 to 1000, and "explore if it is below epsilon" always begins by exploring. A good
# guess would be as in NumPy and PyTorch: sessions that differ unless seeded alike, and seeds that have
# nothing to do with each other. (Equal sessions: microsoft/onnxruntime issue 27771.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "onnxruntime==1.32.0" "onnx==1.23.2" \
  "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def session(kind, nodes=1):
    """A graph of that many random nodes, an output of four numbers each."""
    names = [f"noise_{i}" for i in range(nodes)]
    graph = helper.make_graph(
        [helper.make_node(kind, [], [name], shape=[4]) for name in names],
        "noise",
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def drawn(seed, kind="RandomNormal", nodes=2):
    onnxruntime.set_seed(seed)
    return session(kind, nodes).run(None, {})


print("onnxruntime", onnxruntime.__version__)
one, other = session("RandomNormal"), session("RandomNormal")
for _ in range(3):
    (first,), (second,) = one.run(None, {}), other.run(None, {})
    print("two sessions, no seed:", first.round(3), second.round(3))
    assert (first == second).all()
seven, eight = drawn(7), drawn(8)
print("seed 7:", *(noise.round(3) for noise in seven))
print("seed 8:", *(noise.round(3) for noise in eight))
assert (seven[1] == eight[0]).all() and (seven[0] != seven[1]).all()
zero = drawn(0)
assert (zero[0] == zero[1]).all()
first = [float(drawn(seed, "RandomUniform", 1)[0][0]) for seed in range(1, 1001)]
print("first uniform number of seeds 1, 500, 1000:", first[0], first[499], first[999])
assert max(first) < 0.008 and np.allclose(first, np.arange(1, 1001) * 16807 / 2**31, rtol=1e-3)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
