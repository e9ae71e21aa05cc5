"""Waiting for the moment to kill a training."""

import subprocess
import time
from pathlib import Path


def wait_for_updates(run: Path, count: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the metrics of `count` updates are there, and of the start before the first."""
    deadline = time.monotonic() + 120
    file = run / "metrics.csv"
    while not file.exists() or len(file.read_text().splitlines()) < count + 2:
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
