"""Checkpoints: written atomically, loaded with `weights_only`."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError

_FORMAT = "diffsurrogate-checkpoint"
FORMAT_VERSION = 2
"""Raised whenever older checkpoints or `config.json` files can no longer be read."""
WRITTEN_BEFORE = (
    "format 1 is read by development versions of 0.1.0 before format 2 only, see CHANGELOG.md"
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: even a killed process leaves the old or the new file.

    Raises:
        UsageError: it cannot be written, such as to a full disk; an old file stays.
    """
    with writing(path) as partial, partial.open("wb") as file:
        torch.save({"format": _FORMAT, "version": FORMAT_VERSION, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield where to write what becomes `path` at the end, whole or not at all.

    Raises:
        UsageError: the system refused; what was written is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with advice(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
    except UsageError:
        with suppress(OSError):  # its folder may be a file
            partial.unlink()
        raise


@contextmanager
def advice(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into advice.

    Raises:
        UsageError: the system refused, such as on a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter is torch's
        why = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UsageError(
            f"{path} cannot be written ({' '.join(str(why).split())[:200]}); make room there, then "
            "repeat the command (train with --resume)"
        ) from error


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


def check_finite(state: Any, part: str, module: nn.Module | None = None) -> None:
    """Refuse saved weights, or an optimiser's statistics of them, that are not finite.

    Args:
        state: tensors in dicts and lists.
        part: of the checkpoint, for messages.
        module: whose `state_dict` it is; its buffers, such as bounds, may be infinite, but not NaN.

    Raises:
        UsageError: one has NaN, or is infinite.
    """
    buffers = () if module is None else {name for name, _ in module.named_buffers()}
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, dict | list | tuple):
            check_finite(value, f"{part}.{name}")
        elif isinstance(value, Tensor) and value.is_floating_point():
            bad = value.isnan() if name in buffers else ~value.isfinite()
            if bool(bad.any()):
                raise UsageError(
                    f"the checkpoint's {part}.{name} is not finite: {int(bad.sum())} of "
                    f"{value.numel()} numbers, the first of which is {value[bad][0].item()}; take "
                    "another checkpoint, such as the run's best.pt, or train again"
                )
