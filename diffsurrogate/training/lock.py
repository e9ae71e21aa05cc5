"""A folder for one process at a time, by a lock that goes with the process."""

import os
import weakref
from pathlib import Path

import filelock

from diffsurrogate.errors import UsageError

NAME = ".lock"
"""The file in the folder that is locked; it stays there, as removing it would race."""


class FolderInUse(UsageError):
    """Another process has the folder."""

    def __init__(self, folder: Path, work: str, holder: int | None) -> None:
        """Say which, if the process has written its number down and lives."""
        who = "" if holder is None else f" (process {holder})"
        super().__init__(
            f"another {work}{who} is at work in {folder}; wait for it, stop it, or give another "
            "--out"
        )


class FolderLock:
    """Keeps a folder for this process until `close`, or until the process dies, whatever of.

    The system lets go of the lock when the last process dies that has the open file, so that none
    is ever left behind. Forked processes, such as an env's workers, drop the file at once.
    """

    def __init__(self, folder: Path, work: str) -> None:
        """Make the folder if need be, and lock it.

        Args:
            folder: to lock.
            work: what is done there, for messages.

        Raises:
            FolderInUse: another process has it.
            UsageError: it cannot be made or locked.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written to ({error}); give another --out"
            ) from error
        try:
            if not filelock.lock_descriptor(self.descriptor, blocking=False):
                raise FolderInUse(folder, work, _holder(self.descriptor))
            os.truncate(self.descriptor, 0)
            os.write(self.descriptor, str(os.getpid()).encode())
        except OSError as error:
            self.close()
            raise UsageError(
                f"{folder} cannot be locked ({error}); give an --out on a local disk with space"
            ) from error
        except FolderInUse:
            self.close()
            raise
        _HELD.add(self)

    def close(self) -> None:
        """Let go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


_HELD: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _drop_all() -> None:
    for lock in list(_HELD):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)


def _holder(descriptor: int) -> int | None:
    """Return the process that has the lock; None if it has not said yet, or cannot be asked."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = int(os.read(descriptor, 32))
    except (OSError, ValueError):
        return None
    try:
        os.kill(holder, 0)
    except PermissionError:  # somebody else's
        pass
    except OSError:
        return None
    return holder
