"""A run's folder: configuration, metrics, TensorBoard events, checkpoints and summary."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import advice, load_checkpoint, save_checkpoint, writing
from diffsurrogate.training.lock import NAME as LOCK
from diffsurrogate.training.lock import FolderLock
from diffsurrogate.training.metrics_file import MetricsFile, Row

_REPLACED = ("config.json", "summary.json", "metrics.csv", "curve.png", "rollout.gif")


class RunFolder:
    """The files of a run, written so that a killed process loses nothing.

    `config.json`, `metrics.csv` (one row per update), TensorBoard events, `checkpoints/last.pt`
    and `best.pt`, `seen.pt` with observations of the last evaluation, a copy of the metrics beside
    them, `summary.json`. One process at a time may
    train into it (`lock`); others may read.
    """

    def __init__(self, path: str | Path) -> None:
        """Set the paths; nothing is written yet."""
        self.path = path = Path(path)
        self.checkpoint_path = path / "checkpoints" / "last.pt"
        self.best_path = path / "checkpoints" / "best.pt"
        self.seen_path = path / "checkpoints" / "seen.pt"
        self._metrics = MetricsFile(path / "metrics.csv", path / "checkpoints" / "metrics.csv")
        self._events: Any = None
        self._purge_step: int | None = None
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any]) -> "RunFolder":
        """Start a run in a folder that is new or empty, and lock it.

        Raises:
            UsageError: the folder exists and is not empty, cannot be made, or another process has
                just started a run in it.
        """
        path = Path(path)
        cls._check_empty(path)
        folder = cls(path)
        folder.lock()
        try:
            cls._check_empty(path)  # no longer, if another run came first and has ended
            write_json(path / "config.json", config)
        except UsageError:
            folder.close()
            raise
        return folder

    @staticmethod
    def _check_empty(path: Path) -> None:
        """Refuse a folder that holds more than a kill in a run's first moments leaves."""
        if path.is_dir():
            left = {path / LOCK, *path.glob(".config.json.*.partial")}
            if not set(path.iterdir()) - left:
                return
        elif not path.exists():
            return
        raise UsageError(
            f"{path} exists already and is not overwritten; continue it with --resume, or give "
            "another --out"
        )

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run.

        Raises:
            UsageError: there is no run in the folder.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            below = sorted(file.parent for file in path.glob("*/config.json"))
            advice = f"give one of those in it, such as {below[0]}" if below else "check the path"
            raise UsageError(f"there is no run in {path} (no config.json); {advice}")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration the run was started with."""
        return read_json(self.path / "config.json")

    def lock(self) -> None:
        """Keep other trainings out, until `close` or the end of the process.

        Raises:
            UsageError: another training is at work in it, or it cannot be written to.
        """
        self._lock = FolderLock(self.path, "training")

    def reopen(self, config: dict[str, Any], *, finished: bool) -> None:
        """Continue with `config`; unless `finished`, the old summary is removed.

        And what a kill left of files it was writing; the folder must be locked.
        """
        for part in self.path.glob("checkpoints/.*.partial"):
            part.unlink()
        for part in (file for name in _REPLACED for file in self.path.glob(f".{name}.*.partial")):
            part.unlink()
        if not finished:
            (self.path / "summary.json").unlink(missing_ok=True)
        if config != self.config:
            write_json(self.path / "config.json", config)

    # --- metrics -------------------------------------------------------------------------------

    def rewind(self, update: int) -> list[int]:
        """Remove the metrics of updates after `update`, which will be repeated.

        Returns:
            updates up to `update` whose metrics are lost: neither `metrics.csv` nor its copy has
            them.
        """
        self._close_events()
        self._purge_step = update + 1
        with advice(self._metrics.file):
            return self._metrics.rewind(update)

    def log(self, update: int, metrics: Row) -> None:
        """Append one update's metrics to `metrics.csv` and to TensorBoard.

        Raises:
            UsageError: they cannot be written, such as to a full disk.
        """
        with advice(self._metrics.file):
            self._metrics.append({"update": float(update), **metrics})
        with advice(self.path / "events.out.tfevents..."):
            if self._events is None:
                from diffsurrogate.training.events import EventFile  # the import takes long

                self._events = EventFile(self.path, self._purge_step)
            self._events.add(update, metrics)

    def metrics(self) -> list[Row]:
        """Return the rows of `metrics.csv`, without empty cells and an incomplete last row.

        Raises:
            UsageError: the file is damaged.
        """
        return self._metrics.rows()

    def close(self) -> None:
        """Close the events, and let go of the folder."""
        self._close_events()
        if self._lock is not None:
            self._lock.close()

    # --- checkpoints and results ---------------------------------------------------------------

    def save(self, state: dict[str, Any]) -> None:
        """Write `checkpoints/last.pt` atomically, after the metrics that came before it."""
        with advice(self._metrics.copy):
            self._metrics.sync()
        save_checkpoint(self.checkpoint_path, state)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write `checkpoints/best.pt` atomically."""
        save_checkpoint(self.best_path, state)

    def load(self, device: torch.device | str, *, best: bool = False) -> dict[str, Any]:
        """Read the last checkpoint, or the best by evaluation.

        Raises:
            UsageError: there is none, or it is damaged or not a checkpoint.
        """
        return load_checkpoint(self.best_path if best else self.checkpoint_path, device)

    def write_seen(self, obs: Tensor) -> None:
        """Keep observations (state, agent, obs_dim), on which to compare policies of runs."""
        save_checkpoint(self.seen_path, {"obs": obs.cpu()})

    def seen(self) -> Tensor | None:
        """Return the observations that were kept, or None.

        Raises:
            UsageError: the file is damaged.
        """
        if not self.seen_path.is_file():
            return None
        obs: Tensor = load_checkpoint(self.seen_path)["obs"]
        return obs

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, with versions and the class of machine."""
        write_json(self.path / "summary.json", summary | {"versions": _versions()} | _machine())

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None."""
        file = self.path / "summary.json"
        return read_json(file) if file.is_file() else None

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def write_text(file: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(file) as partial:
        partial.write_text(text)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def write_rows(file: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write JSON atomically, with a line for each row of a table."""
    write_text(file, _lines_of(content) + "\n")


def _lines_of(content: Any, depth: int = 0) -> str:
    """Return JSON with containers of containers spread over lines, two levels deep."""
    inner = content.values() if isinstance(content, dict) else content
    if depth == 2 or not any(isinstance(value, dict | list) for value in inner):
        return json.dumps(content)
    if isinstance(content, dict):
        rows = [f"{json.dumps(name)}: {_row(value, depth)}" for name, value in content.items()]
        return "{\n" + ",\n".join(rows) + "\n}"
    return "[\n" + ",\n".join(_row(value, depth) for value in content) + "\n]"


def _row(value: Any, depth: int) -> str:
    return _lines_of(value, depth + 1) if isinstance(value, dict | list) else json.dumps(value)


def read_json(file: Path) -> dict[str, Any]:
    """Read JSON.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}); restore it or train again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no JSON object; restore it or train again")
    return content


def _versions() -> dict[str, str]:
    packages = ("diffsurrogate", "torch", "numpy", "gymnasium")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _machine() -> dict[str, Any]:
    """Return hardware relevant to speed, without identifying the machine."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "architecture": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
    }
