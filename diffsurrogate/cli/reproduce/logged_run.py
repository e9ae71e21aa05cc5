"""One training of a grid, in a process that Ray started for it."""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from diffsurrogate.errors import UsageError
from diffsurrogate.training.lock import FolderInUse, FolderLock

_PATIENCE = 120.0
"""Seconds to wait for a training of a killed grid, or of a node that is lost, to be gone."""


def train_logged(arguments: tuple[str, ...], folder: Path, log: Path, directory: Path) -> int:
    """Train in this process, which is good for nothing else then; return the exit status.

    Args:
        arguments: what follows `diffsurrogate train`; a run that has begun is resumed.
        folder: of the run.
        log: all that is said is added here.
        directory: to work in; relative paths start there.

    Raises:
        UsageError: this machine does not have the grid's folder.
    """
    try:
        os.chdir(directory)
        stream = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(
            f"{socket.gethostname()} cannot write what the other nodes can ({error}); all nodes "
            "need the same file system"
        ) from error
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
    try:
        return train_or_resume(arguments, folder)
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def train_or_resume(arguments: tuple[str, ...], folder: Path) -> int:
    """Train, or go on if the run has begun; return the exit status."""
    from diffsurrogate.__main__ import main

    if not (folder / "config.json").is_file():
        return main(["train", *arguments])
    _wait_for(folder)
    return main(["train", *arguments, "--resume"])


def _wait_for(folder: Path) -> None:
    """Wait until no other process trains in the folder, but not for ever."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            FolderLock(folder, "training").close()
            return
        except FolderInUse:
            time.sleep(0.2)
