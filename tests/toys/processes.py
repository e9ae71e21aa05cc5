"""Trainings in other processes, and in this one where the process does not matter."""

import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from diffsurrogate.cli.reproduce.logged_run import train_or_resume
from diffsurrogate.cli.reproduce.pool import Call, RayPool

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (the extra `ray`)")


def wait_for_updates(run: Path, count: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the metrics of `count` updates are there, and of the start before the first."""
    deadline = time.monotonic() + 600
    file = run / "metrics.csv"
    while not file.exists() or len(file.read_text().splitlines()) < count + 2:
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_here(
    pool: RayPool,
    calls: Sequence[Call],
    started: Callable[[], None],
    ended: Callable[[Call, Any], None],
    say: Callable[[str], None],
) -> None:
    """Stand in for `RayPool.run`: one training after another, in this process."""
    for call in calls:
        started()
        ended(call, train_or_resume(*call.arguments[:2]))
