"""Trainings in other processes, and in this one where the process does not matter."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from diffsurrogate.__main__ import main
from diffsurrogate.cli.reproduce.workers import Children, Job


def wait_for_updates(run: Path, count: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the metrics of `count` updates are there, and of the start before the first."""
    deadline = time.monotonic() + 120
    file = run / "metrics.csv"
    while not file.exists() or len(file.read_text().splitlines()) < count + 2:
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_here(
    children: Children,
    jobs: Sequence[Job],
    started: Callable[[], None],
    ended: Callable[[Job, int], None],
) -> None:
    """Stand in for `Children.run`: one job after another, in this process."""
    for job in jobs:
        started()
        ended(job, main(list(job.arguments)))
