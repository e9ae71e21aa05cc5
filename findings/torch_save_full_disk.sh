#!/usr/bin/env bash
# `torch.save` where no more can be written raises no OSError and tells no reason.
#
# torch 2.13.0: writing in Python (`open(...).write`) to a file that may not grow raises OSError with
# an errno (EFBIG here, ENOSPC on a full disk). `torch.save` to the same path raises RuntimeError:
# "basic_ios::clear: iostream error" for a small tensor; for a larger one "unexpected pos 640 vs 534"
# of an assertion in the zip writer. Neither has an errno, so that `except OSError`, or a look at
# `error.errno`, misses a full disk. An open Python file in place of the path changes nothing, though
# its own `write` raises the OSError; saving into a `BytesIO` and writing its bytes does. The limit on
# the size of files stands in for the full disk, which needs root.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import errno
import resource
import signal
import sys
from pathlib import Path

import torch

file = Path(sys.argv[1]) / "tensor.pt"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, free[1]))


def raised(write):
    try:
        write()
    except Exception as error:
        return f"{type(error).__name__}, errno {errno.errorcode.get(getattr(error, 'errno', None))}"
    return "nothing"


def to_open_file(tensor):
    with file.open("wb", buffering=0) as stream:
        torch.save(tensor, stream)


def written():
    with file.open("wb", buffering=0) as stream:
        stream.write(b"x" * 100)
        stream.write(b"x")


found = {
    "bytes": raised(written),
    "torch.save of 3 numbers to a path": raised(lambda: torch.save(torch.zeros(3), file)),
    "torch.save of 10,000 numbers to a path": raised(lambda: torch.save(torch.zeros(10_000), file)),
    "torch.save of 10,000 to an open file": raised(lambda: to_open_file(torch.zeros(10_000))),
}
resource.setrlimit(resource.RLIMIT_FSIZE, free)
print("torch", torch.__version__.partition("+")[0], found)
assert found == {
    "bytes": "OSError, errno EFBIG",
    "torch.save of 3 numbers to a path": "RuntimeError, errno None",
    "torch.save of 10,000 numbers to a path": "RuntimeError, errno None",
    "torch.save of 10,000 to an open file": "RuntimeError, errno None",
}, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder"
