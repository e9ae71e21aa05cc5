"""TensorBoard's events, written as they come.

`SummaryWriter` writes in a thread, which loses the last minutes when the process is killed, and
where a full disk ends the thread with a traceback.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

_VERSION = "brain.Event:2"


class EventFile:
    """One process's part of a run's events."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Start a file in the run's folder.

        Args:
            folder: of the run.
            purge_step: TensorBoard then forgets what other files have from this step on.

        Raises:
            OSError: it cannot be written.
        """
        host = socket.gethostname()
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{host}.{os.getpid()}"
        number = len(list(folder.glob(f"{name}.*")))
        self._stream = (folder / f"{name}.{number}").open("wb", buffering=0)
        self._records = RecordWriter(self._stream)
        self._write(file_version=_VERSION)
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers of a step.

        Raises:
            OSError: they cannot be written.
        """
        for name, value in numbers.items():
            self._write(step=step, summary=scalar(name, value))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, **content: Any) -> None:
        event = Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
