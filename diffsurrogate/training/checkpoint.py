"""Checkpoints: written atomically, loaded with `weights_only`."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from diffsurrogate.errors import UsageError

_FORMAT = "diffsurrogate-checkpoint"
FORMAT_VERSION = 2
"""Raised whenever older checkpoints or `config.json` files can no longer be read."""
WRITTEN_BEFORE = (
    "format 1 is read by development versions of 0.1.0 before format 2 only, see CHANGELOG.md"
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: even a killed process leaves the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        torch.save({"format": _FORMAT, "version": FORMAT_VERSION, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values, without running pickled code.

    Raises:
        UsageError: there is no file, or it is truncated, damaged, not a checkpoint or of another
            version.
    """
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}; check the path or train a run first")
    try:
        with warnings.catch_warnings():  # torch warns about the pickle it then refuses
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise UsageError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged or not written by "
            "diffsurrogate; restore it, or train again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or "state" not in content:
        raise UsageError(f"{path} is not a checkpoint of diffsurrogate; give one that it wrote")
    if content.get("version") != FORMAT_VERSION:
        raise UsageError(
            f"{path} is a checkpoint of format {content.get('version')}, this version reads "
            f"{FORMAT_VERSION}; use the version that wrote it ({WRITTEN_BEFORE}), or train again"
        )
    state: dict[str, Any] = content["state"]
    return state
