"""A run's folder: configuration, metrics, TensorBoard events, checkpoints and summary."""

import csv
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint, save_checkpoint


class RunFolder:
    """The files of a run, written so that a killed process loses nothing.

    `config.json`, `metrics.csv` (one row per update), TensorBoard events, `checkpoints/last.pt`
    and `best.pt`, `summary.json`.
    """

    def __init__(self, path: Path) -> None:
        """Set the paths; nothing is written yet."""
        self.path = path
        self.checkpoint_path = path / "checkpoints" / "last.pt"
        self.best_path = path / "checkpoints" / "best.pt"
        self._writer: Any = None

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """Start a run in a folder that is new or empty.

        Raises:
            UsageError: the folder exists and is not empty, or cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(
                f"{path} exists already and is not overwritten; continue it with --resume, or "
                "give another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path} cannot be made ({error}); give another --out") from error
        folder = cls(path)
        write_json(path / "config.json", config)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run.

        Raises:
            UsageError: there is no run in the folder.
        """
        if not (path / "config.json").is_file():
            raise UsageError(f"there is no run in {path} (no config.json); check the path")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration the run was started with."""
        return read_json(self.path / "config.json")

    def reopen(self, config: dict[str, Any], *, finished: bool) -> None:
        """Continue with `config`; unless `finished`, the old summary is removed."""
        if not finished:
            (self.path / "summary.json").unlink(missing_ok=True)
        if config != self.config:
            write_json(self.path / "config.json", config)

    # --- metrics -------------------------------------------------------------------------------

    def rewind(self, update: int) -> None:
        """Remove the metrics of updates after `update`, which will be repeated."""
        kept = [row for row in self.metrics() if row["update"] <= update]
        self._rewrite(kept, _names(kept))
        self._open_writer(update + 1)

    def log(self, update: int, metrics: dict[str, float]) -> None:
        """Append one update's metrics to `metrics.csv` and to TensorBoard."""
        row = {"update": float(update), **metrics}
        file = self.path / "metrics.csv"
        header = _header(file)
        if not set(row) <= set(header):
            header = [*header, *(name for name in row if name not in header)]
            self._rewrite(self.metrics(), header)
        with file.open("a", newline="") as stream:
            csv.DictWriter(stream, header).writerow(row)
        writer = self._writer or self._open_writer()
        for name, value in metrics.items():
            writer.add_scalar(name, value, update)

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of `metrics.csv`, without empty cells and an incomplete last row."""
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        text = file.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        rows = csv.DictReader(lines)
        return [{k: float(v) for k, v in row.items() if v} for row in rows]

    def close(self) -> None:
        """Flush and close the TensorBoard writer."""
        self._close_writer()

    # --- checkpoints and results ---------------------------------------------------------------

    def save(self, state: dict[str, Any]) -> None:
        """Write `checkpoints/last.pt` atomically."""
        save_checkpoint(self.checkpoint_path, state)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write `checkpoints/best.pt` atomically."""
        save_checkpoint(self.best_path, state)

    def load(self, device: torch.device | str, *, best: bool = False) -> dict[str, Any]:
        """Read the last checkpoint, or the best by evaluation if there is one.

        Raises:
            UsageError: there is none, or it is damaged or not a checkpoint.
        """
        chosen = self.best_path if best and self.best_path.is_file() else self.checkpoint_path
        return load_checkpoint(chosen, device)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, with versions and the class of machine."""
        write_json(self.path / "summary.json", summary | {"versions": _versions()} | _machine())

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None."""
        file = self.path / "summary.json"
        return read_json(file) if file.is_file() else None

    def _rewrite(self, rows: list[dict[str, float]], header: list[str]) -> None:
        file = self.path / "metrics.csv"
        partial = file.with_name(".metrics.csv.partial")
        with partial.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, header)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(file)

    def _open_writer(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # the import takes most of a second

        self._close_writer()
        self._writer = SummaryWriter(str(self.path), purge_step=purge_step)
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_text(file: Path, text: str) -> None:
    """Write a text file atomically."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(file)


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


def _header(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return next(csv.reader(stream), [])


def _names(rows: list[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row)) or ["update"]


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
