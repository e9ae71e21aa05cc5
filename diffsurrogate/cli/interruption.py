"""Ctrl-C in a training: what it ends, and when."""

import os
import signal
from types import FrameType

from diffsurrogate.envs.waiting import env_hangs, when_told


class Interruption:
    """Lets Ctrl-C end a training after the update under way, so that its checkpoint is whole.

    It ends at once, by KeyboardInterrupt, before the training begins, where an env hangs, and at
    the second Ctrl-C. Forked workers of envs ignore Ctrl-C, which reaches them too: we end them.
    """

    def __init__(self) -> None:
        """Change nothing yet."""
        self.asked = False
        """Whether to end."""
        self.training = False
        """Whether there is an update to wait for."""
        self._process = os.getpid()
        self._before: object = None

    def __enter__(self) -> "Interruption":
        """Take over Ctrl-C; not in another thread than the main one, where it does not arrive."""
        try:
            self._before = signal.signal(signal.SIGINT, self._stop)
        except ValueError:
            return self
        when_told(self._press_on)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._before is not None:
            when_told(None)
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def ignore(self) -> None:
        """Let nothing disturb the end, which does not take long."""
        if self._before is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        at_once = self.asked or not self.training or env_hangs()
        self.asked = True
        if at_once:
            raise KeyboardInterrupt
        # not print, which the signal may have come into
        os.write(2, b"\nstopping after the update under way; Ctrl-C again stops at once\n")

    def _press_on(self) -> None:
        """End what was to end after an update, now that an env is found to hang in it."""
        if self.asked:
            os.kill(self._process, signal.SIGINT)
