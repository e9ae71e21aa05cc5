#!/usr/bin/env bash
# WANDB_MODE counts only if it is set before the process's first run; later it is ignored.
#
# wandb 0.31.0, without an account: after one run with mode="offline", WANDB_MODE=offline is put into
# os.environ, as tests and notebooks do. The next `wandb.init()` is online all the same and fails for
# want of an API key. In a process that has WANDB_MODE=offline from its start it works. And
# `log(..., step=n)` keeps a row back until a later step comes: the run's summary is one row behind,
# unless `commit=True` is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "wandb==0.31.0"
cat >"$folder/check.py" <<'PYTHON'
import os
import sys

import wandb

print("wandb", wandb.__version__, sys.argv[1])
if sys.argv[1] == "late":
    wandb.init(project="p", mode="offline").finish()
    os.environ["WANDB_MODE"] = "offline"
    try:
        wandb.init(project="p").finish()
        found = "offline"
    except wandb.Error as error:
        found = str(error)
    print(found)
    assert "No API key" in found, found
else:
    run = wandb.init(project="p")
    seen = []
    for step, commit in ((1, None), (2, None), (3, True)):
        run.log({"loss": float(step)}, step=step, commit=commit)
        seen.append(run.summary.get("loss"))
    run.finish()
    print("summary after steps 1, 2, 3:", seen)
    assert seen == [None, 1.0, 3.0], seen
PYTHON
cd "$folder"
export HOME="$folder" WANDB_SILENT=true
unset WANDB_API_KEY WANDB_MODE NETRC
"$folder/venv/bin/python" "$folder/check.py" late </dev/null
WANDB_MODE=offline "$folder/venv/bin/python" "$folder/check.py" early </dev/null
