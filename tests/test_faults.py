"""A part of the campaign of faults; `python examples/benchmarks/faults.py` is all of it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "benchmarks" / "faults.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kills", "files", "at once"])
def test_no_fault_changes_what_is_learned_without_a_word(kind):
    command = [
        sys.executable,
        str(SCRIPT),
        kind,
        "--print",
        "--cases",
        "shac++ paper",
        "ppo gymnasium",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
