#!/usr/bin/env bash
# A checked type hint draws from Python's global random stream.
#
# beartype 0.23.1: of a list, a function decorated with `@beartype` checks one item, chosen by
# `random.getrandbits` of the global generator. So a type check changes what a seeded program draws next, even one of an
# empty list; a hint without items does not. A check in another thread makes a seeded run differ from one run to the
# next. NumPy's and other generators are left alone. jaxtyping, which hands hints to beartype, does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "beartype==0.23.1" "jaxtyping==0.3.11" \
  "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import random

import beartype
import numpy as np
from jaxtyping import Float, jaxtyped


@beartype.beartype
def total(values: list[int]) -> int:
    return sum(values)


@beartype.beartype
def double(value: int) -> int:
    return 2 * value


@jaxtyped(typechecker=beartype.beartype)
def mean(rows: list[Float[np.ndarray, "n"]]) -> float:
    return float(np.mean(rows))


def draws(call) -> bool:
    random.seed(0)
    before = random.getstate()
    call()
    return random.getstate() != before


found = {
    "list": draws(lambda: total([1, 2, 3])),
    "list of one": draws(lambda: total([1])),
    "empty list": draws(lambda: total([])),
    "number": draws(lambda: double(3)),
    "jaxtyping": draws(lambda: mean([np.ones(3), np.zeros(3)])),
}
random.seed(0)
plain = random.random()
random.seed(0)
total([1, 2, 3])
found["next number differs"] = random.random() != plain
print("beartype", beartype.__version__, found)
assert found == {
    "list": True,
    "list of one": True,
    "empty list": True,
    "number": False,
    "jaxtyping": True,
    "next number differs": True,
}, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
