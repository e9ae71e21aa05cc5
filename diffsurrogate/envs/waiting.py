"""A watch on calls into simulators: one that does not return is named in the log."""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffsurrogate.errors import UsageError

USUAL = 60.0
"""Seconds of a call before it is named, unless set otherwise."""
_LOG = logging.getLogger("diffsurrogate")
_SHORTEST, _LONGEST = 0.01, 5.0
"""Seconds between two looks at the calls under way."""


class Call:
    """The call that one env has under way into its simulator, if any; `StepChecks` notes it."""

    def __init__(self, name: str) -> None:
        """Name the env, for the log; its calls are watched from now on."""
        self.name = name
        self.what = ""
        """"step" or "reset"."""
        self.method: Any = None
        """Of the env, which is called."""
        self.steps: Tensor | None = None
        """(env,) steps of the episodes; None before the first."""
        self.since: float | None = None
        """When it began, by the monotonic clock; None while there is none. Set last."""
        self.told_at: float | None = None
        """`since` of the call that was named last."""
        self.limit = 0.0
        """Seconds after which that call is named again."""
        _WATCH.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Watch copies too."""
        vars(self).update(state)
        _WATCH.add(self)

    def describe(self) -> str:
        """Say what is waited for."""
        steps, find = self.steps, getattr(getattr(self.method, "__self__", None), "_awaited", str)
        try:
            awaited = find()
        except (OSError, ValueError):  # the call has just returned, and pipes are closed
            awaited = ""
        when = "" if steps is None else f", {int(steps.max())} steps into an episode"
        return f"{self.name}.{self.what}{f' of {awaited}' if awaited else ''}{when}"


class _Watch:
    """A thread that looks at the calls of all envs now and then."""

    def __init__(self) -> None:
        self.after: float | None = USUAL
        self.thread: threading.Thread | None = None
        self.told: Callable[[], None] = lambda: None
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._changed = threading.Event()

    def add(self, call: Call) -> None:
        with self._lock:
            self._calls.add(call)
            if self.thread is None:
                self.thread = threading.Thread(
                    target=self._run, name="diffsurrogate-watch", daemon=True
                )
                self.thread.start()

    def forget(self) -> None:
        """Begin without a thread, as forked processes do."""
        self.thread, self._calls = None, weakref.WeakSet(self._calls)
        self._lock, self._changed = threading.Lock(), threading.Event()

    def set(self, after: float | None) -> None:
        self.after = after
        self._changed.set()

    def hanging(self) -> list[Call]:
        """Return the calls that take longer than they should."""
        if self.after is None:
            return []
        with self._lock:
            calls = list(self._calls)
        now = time.monotonic()
        return [
            call for call in calls if (since := call.since) is not None and now - since > self.after
        ]

    def _run(self) -> None:
        while True:
            after = self.after
            pause = _LONGEST if after is None else min(max(after / 8, _SHORTEST), _LONGEST)
            self._changed.wait(pause)
            self._changed.clear()
            for call in self.hanging():
                since = call.since
                waited = 0.0 if since is None else time.monotonic() - since
                if call.told_at != since:
                    call.told_at, call.limit = since, 0.0
                if waited > call.limit:
                    call.limit = 2 * waited
                    _LOG.warning(
                        "waiting for %s for %.0f s; Ctrl-C ends it", call.describe(), waited
                    )
                    self.told()


_WATCH = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WATCH.forget)


def warn_of_hanging_envs(after: float | None = USUAL) -> None:
    """Set how long an env may take for a step or reset before a warning names it.

    The warning goes to the logger "diffsurrogate", which prints it unless told otherwise, and comes
    again whenever the wait has doubled. Simulators that never let Python run cannot be watched.

    Args:
        after: seconds; None for no warnings.

    Raises:
        UsageError: it is not above 0.
    """
    if after is not None and not after > 0:
        raise UsageError(f"after is {after}; give seconds above 0, or None for no warnings")
    _WATCH.set(after)


def env_hangs() -> bool:
    """Return whether an env takes longer than `warn_of_hanging_envs` allows."""
    return bool(_WATCH.hanging())


def when_told(do: Callable[[], None] | None) -> None:
    """Let the watch call `do`, in its thread, after each warning; None for nothing."""
    _WATCH.told = do or (lambda: None)
