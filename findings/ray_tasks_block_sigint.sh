#!/usr/bin/env bash
# A Ray task's process has SIGINT blocked, and runs at nice 15.
#
# Ray 2.60.0, a local cluster, Linux: in a task, signal.pthread_sigmask says that SIGINT is blocked,
# though signal.getsignal has Python's usual handler. `kill -INT` of the process stays pending: no
# KeyboardInterrupt, and a handler that the task sets is never called, such as a trainer's that saves
# a checkpoint on Ctrl-C. Processes that the task starts inherit the mask. (`ray.cancel` raises
# KeyboardInterrupt in Python's main thread without a signal.) The nice value is 15
# (RAY_worker_niceness): beside any other program on the same core, the task gets a thirtieth of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "ray==2.60.0"
cat >"$folder/check.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time

import ray


@ray.remote
def task():
    calls = []
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: calls.append("called"))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    mask = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    child = subprocess.run([sys.executable, "-c", mask], capture_output=True, text=True)
    return {
        "usual handler": before is signal.default_int_handler,
        "blocked": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "pending": signal.SIGINT in signal.sigpending(),
        "calls of a handler": len(calls),
        "blocked in a child": child.stdout.strip(),
        "nice": os.nice(0),
    }


ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
nice = os.nice(0)
found = ray.get(task.remote())
print("ray", ray.__version__, found, "nice of the driver:", nice)
assert found == {
    "usual handler": True,
    "blocked": True,
    "pending": True,
    "calls of a handler": 0,
    "blocked in a child": "True",
    "nice": nice + 15,
}, found
PYTHON
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/check.py"
