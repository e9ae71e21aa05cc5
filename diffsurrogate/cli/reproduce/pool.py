"""Calls side by side on a Ray cluster, each in a process of its own."""

import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from diffsurrogate.errors import UsageError

RETRIES = 3
"""How often a call is repeated whose process was killed."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Settings of a Ray of our own: it reports nothing, and its processes are as urgent as others."""
_STORE = 75 * 1024**2
"""Bytes of shared memory for results, the least that Ray takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """A function and what it is called with; Ray sends both by pickle."""

    name: str
    """For people."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class ProcessLost(RuntimeError):
    """The process of a call was killed, and those of its repetitions too."""


class RayPool:
    """Makes calls, so many at a time, and ends them all when it is told to stop itself.

    The first signal (Ctrl-C, SIGTERM, SIGHUP) comes to the calls as Ctrl-C, a second kills them.
    They are also killed when this process dies, whatever of. A call whose process or node dies is
    repeated, on another node if need be.
    """

    def __init__(self, jobs: int | None = None, address: str | None = None) -> None:
        """Call nothing yet.

        Args:
            jobs: calls at a time, one core each; None for as many as there are cores.
            address: HOST:PORT of a running cluster; None for a Ray of our own, on this machine.

        Raises:
            UsageError: the address is of another form.
        """
        if address is not None and not re.fullmatch(r"[^/]+:\d+", address):
            raise UsageError(
                f"the address of a Ray cluster is {address}; give HOST:PORT, as `ray start --head` "
                "prints it"
            )
        self.jobs = jobs
        self.address = address
        self.signal = 0
        """Number of the signal that stopped the calls; 0 for none."""
        self._signals = self._passed_on = 0
        self._running: dict[Any, Call] = {}

    @property
    def names(self) -> list[str]:
        """Names of the calls under way."""
        return [call.name for call in self._running.values()]

    def run(
        self,
        calls: Sequence[Call],
        started: Callable[[], None],
        ended: Callable[[Call, Any], None],
        say: Callable[[str], None] = print,
    ) -> None:
        """Make all calls, in their order, unless a signal stops them first.

        Args:
            calls: to make.
            started: called after each has been handed to Ray.
            ended: gets each call that ended, and what it returned or the exception it raised.
            say: gets a line for each call that is repeated.

        Raises:
            UsageError: Ray is not installed, does not start, or there is no cluster.
        """
        if not calls:
            return
        waiting, lost = deque(calls), Counter[Call]()
        with self._stoppable(), self._connected() as ray:
            remote = {
                function: ray.remote(num_cpus=1, max_calls=1, max_retries=0)(function)
                for function in {call.function for call in calls}
            }
            try:
                while self._running or (waiting and not self.signal):
                    while waiting and not self.signal and len(self._running) < self._room(ray):
                        call = waiting.popleft()
                        self._running[remote[call.function].remote(*call.arguments)] = call
                        started()
                    for call, result in self._results(ray):
                        if isinstance(result, ProcessLost) and not self.signal:
                            lost[call] += 1
                            if lost[call] <= RETRIES:
                                waiting.appendleft(call)
                                say(f"{call.name}: {result}; repeating it ({lost[call]}/{RETRIES})")
                                continue
                        ended(call, result)
            finally:
                self._signals += bool(self._running)  # after an exception
                while self._running:
                    self._results(ray)

    def _room(self, ray: Any) -> int:
        """Return how many calls there may be at a time, as nodes come and go."""
        cores = max(1, int(ray.cluster_resources().get("CPU", 0)))
        return cores if self.jobs is None else min(self.jobs, cores)

    def _results(self, ray: Any) -> list[tuple[Call, Any]]:
        """Pass on a signal, wait a moment, and return the calls that ended with their results."""
        signals = self._signals  # more may come at any time
        if signals > self._passed_on:
            for reference in self._running:
                ray.cancel(reference, force=signals > 1)
            self._passed_on = signals
        ended = []
        for reference in ray.wait(list(self._running), timeout=0.1)[0]:
            result: Any
            try:
                result = ray.get(reference)
            except ray.exceptions.TaskCancelledError as error:
                result = error
            except ray.exceptions.RayTaskError as error:
                result = error.cause
            except ray.exceptions.RayError as error:  # all others are faults of the cluster
                result = ProcessLost(str(error).partition(". ")[0])
            ended.append((self._running.pop(reference), result))
        return ended

    def ray(self) -> Any:
        """Return Ray's package.

        Raises:
            UsageError: it is not installed.
        """
        if self.address is None:
            for name, value in _LOCAL.items():
                os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "runs are trained side by side by Ray, an optional extra: pip install "
                f'"diffsurrogate[ray]" ({error})'
            ) from error
        return ray

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Start Ray, or connect to the cluster; yield the package."""
        ray = self.ray()
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            options: dict[str, Any] = {"address": self.address}
            if self.address is None:
                options = {
                    "address": "local",
                    "num_cpus": self.jobs or cores(),
                    "include_dashboard": False,
                    "object_store_memory": _STORE,
                    "_temp_dir": folder,
                }
            # the last words of a process that dies, dozens of lines, whatever log_to_driver says
            ray._private.worker.print_to_stdstream = lambda *_, **__: None
            try:
                if self.address is not None:  # Ray would try for minutes
                    host, _, port = self.address.rpartition(":")
                    socket.create_connection((host, int(port)), timeout=10).close()
                with _handlers_kept():
                    ray.init(
                        **options,
                        runtime_env={"env_vars": _ONE_THREAD},
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
            except Exception as error:  # also Ray's own, when a node is not ready in 30 s
                raise UsageError(self._advice(error)) from error
            try:
                yield ray
            finally:
                ray.shutdown()

    def _advice(self, error: Exception) -> str:
        if self.address is None:
            return (
                f"Ray does not start ({error}); it needs a writable folder with space and a short "
                "path for its files, which TMPDIR=/tmp may be, and a machine that is not too busy"
            )
        return (
            f"there is no Ray cluster at {self.address} that this machine belongs to ({error}); "
            "start it by `ray start --head`, join it by `ray start --address HOST:PORT`, or leave "
            "out --ray-address to train on this machine alone"
        )

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def stop(number: int, _: FrameType | None) -> None:
            self.signal = self.signal or number
            self._signals += 1

        before = {}
        if threading.current_thread() is threading.main_thread():  # where signals arrive
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Undo what Ray does to SIGTERM, and let its processes outlive the terminal as ours does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = signal.getsignal(signal.SIGTERM)
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGHUP, hung_up)


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
