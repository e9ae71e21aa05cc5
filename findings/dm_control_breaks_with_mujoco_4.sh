#!/usr/bin/env bash
# dm_control accepts MuJoCo 4 and then cannot load a single task.
#
# dm_control 1.0.50, mujoco 4.0.0: the requirement is `mujoco>=3.17.0` without an upper bound, so that a plain
# `pip install dm_control` brings MuJoCo 4. `suite.load("cartpole", "balance")` then fails, as every task does:
# dm_control's list of fields has `flex_vertedge`, which MjModel has no longer. The same
# dm_control works with mujoco 3.17.0. A good guess would be that what pip resolves works together.
# (mujoco/index.py, `struct_indexer`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
install "dm_control==1.0.50" "mujoco==4.0.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import os
from importlib.metadata import version

os.environ["MUJOCO_GL"] = "disable"
from dm_control import suite

try:
    found = suite.load("cartpole", "balance").reset().observation["position"].shape
except AttributeError as error:
    found = str(error)
print("dm_control", version("dm_control"), "mujoco", version("mujoco"), found)
works = {"3.17.0": (3,), "4.0.0": "'MjModel' object has no attribute 'flex_vertedge'"}
raise SystemExit(found != works[version("mujoco")])
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
install "mujoco==3.17.0"
"$folder/venv/bin/python" "$folder/check.py"
