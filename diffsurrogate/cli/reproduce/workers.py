"""Commands side by side, each in a process of its own, and a folder for one at a time."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from diffsurrogate.errors import UsageError
from diffsurrogate.training.lock import FolderInUse, FolderLock

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PATIENCE = 120.0
"""Seconds to wait for the runs of a killed grid to stop."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `diffsurrogate` command."""

    name: str
    """For people."""
    arguments: tuple[str, ...]
    """What follows `diffsurrogate`."""
    log: Path
    """What it says is added here."""


class Children:
    """Runs jobs, so many at a time, and stops them all by SIGINT when it is told to stop itself.

    They also stop when this process dies, whatever of. A second signal passes on another SIGINT,
    which ends a training at once; a third kills.
    """

    def __init__(self, parallel: int, lock: int) -> None:
        """Run nothing yet; the open file `lock` stays locked while any job lives."""
        self.parallel = parallel
        self.lock = lock
        self.signal = 0
        """Number of the signal that stopped the jobs; 0 for none."""
        self._signals = 0
        self._running: dict[subprocess.Popen[bytes], Job] = {}

    @property
    def names(self) -> list[str]:
        """Names of the jobs under way."""
        return [job.name for job in self._running.values()]

    def run(
        self,
        jobs: Sequence[Job],
        started: Callable[[], None],
        ended: Callable[[Job, int], None],
    ) -> None:
        """Run all jobs, in their order, unless a signal stops them first.

        `ended` gets each job that ended and its exit status, negative for a signal.
        """
        waiting = deque(jobs)
        with self._stoppable():
            try:
                while self._running or (waiting and not self.signal):
                    while waiting and len(self._running) < self.parallel and not self.signal:
                        self._start(waiting.popleft())
                        started()
                    for process in [p for p in self._running if p.poll() is not None]:
                        job = self._running.pop(process)
                        process.communicate()  # closes our end
                        ended(job, process.returncode)
                    time.sleep(0.05)
            finally:
                self._stop()  # nothing is left to stop, but after an exception
                for process in self._running:
                    process.wait()  # a leash that is cut would be a second SIGINT, which ends all
                    process.communicate()

    def _start(self, job: Job) -> None:
        watchdog = "diffsurrogate.cli.reproduce.watchdog"
        command = [sys.executable, "-P", "-m", watchdog, *job.arguments]
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to: it closes when we die
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | _ONE_THREAD,
                process_group=0,  # Ctrl-C reaches us alone, who pass it on
                pass_fds=(self.lock,),
            )
        self._running[process] = job
        if self.signal:  # it came in between
            process.send_signal(signal.SIGINT)

    def _stop(self, kill: bool = False) -> None:
        for process in list(self._running):
            process.send_signal(signal.SIGKILL if kill else signal.SIGINT)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def stop(number: int, _: FrameType | None) -> None:
            self.signal = self.signal or number
            self._signals += 1
            self._stop(kill=self._signals > 2)

        before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    before[number] = signal.signal(number, stop)
        except ValueError:  # not in the main thread, where signals do not arrive
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Make the folder and keep it to ourselves; yield the open file that holds the lock.

    Waits for runs that a killed grid left to stop.

    Raises:
        UsageError: another process works there, or the folder cannot be made or locked.
    """
    deadline = time.monotonic() + _PATIENCE
    told = False
    while True:
        try:
            lock = FolderLock(folder, "reproduce")
            break
        except FolderInUse as error:
            if error.holder is not None:
                raise
            if time.monotonic() > deadline:
                raise UsageError(
                    f"runs of a grid that was killed are still at work in {folder}; stop them or "
                    "wait for them, or give another --out"
                ) from error
        if not told:
            print(f"waiting for runs in {folder}, left by a grid that was killed, to stop")
            told = True
        time.sleep(0.2)
    with closing(lock):
        yield lock.descriptor
