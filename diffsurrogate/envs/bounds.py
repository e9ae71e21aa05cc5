"""Checks that observations stay within the finite bounds of their space."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

SLACK = 1e-3
"""Tolerance relative to the range, or to the only finite bound: integrators overshoot a wall by
about this much, wrongly scaled features by far more."""
LEAST_SLACK = 1e-6
"""Absolute tolerance added to it, for bounds of 0: a few float32 rounding errors of 1."""


def float32_inside(box: spaces.Box) -> spaces.Box:
    """Return the float32 box of all that is inside a box of another dtype: 0.1 itself is not.

    Of a box too tight for any float32 it is the nearest one.
    """
    with np.errstate(over="ignore"):  # bounds that are infinite in float32 stay so
        low, high = box.low.astype(np.float32), box.high.astype(np.float32)
    inside_low = np.where(low < box.low, np.nextafter(low, np.float32(np.inf)), low)
    inside_high = np.where(high > box.high, np.nextafter(high, np.float32(-np.inf)), high)
    fits = (inside_low <= inside_high) & np.isfinite(low) & np.isfinite(high)
    high = np.maximum(np.where(fits, inside_high, high), low)
    return spaces.Box(np.where(fits, inside_low, low), high, dtype=np.float32)


def index_in(shape: Sequence[int], entry: int) -> str:
    """Return the index of an entry of the flat array, "[1, 2]"; "" where there are no axes."""
    index = [int(axis) for axis in np.unravel_index(entry, shape)]
    return str(index) if index else ""


class Bounds:
    """The observation box, widened by the tolerance; infinite bounds are not checked."""

    def __init__(
        self,
        box: spaces.Box,
        device: torch.device | str = "cpu",
        name: Callable[[int], str] | None = None,
    ) -> None:
        """Widen a box.

        Args:
            box: observation space of one env, of any shape.
            device: device of the observations given to `holds`.
            name: returns what complaints call an entry of the flat box; None for its index.
        """
        self._box, self._name = box, name
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite bounds; the largest float32
            ranges = high - low
            slacks = [
                SLACK * np.where(bounded, ranges, np.abs(bound)) + LEAST_SLACK
                for bound in (low, high)
            ]
            self._low, self._high = np.float32(low - slacks[0]), np.float32(high + slacks[1])
        self._low_tensor = torch.as_tensor(self._low, device=device)
        self._high_tensor = torch.as_tensor(self._high, device=device)

    @classmethod
    def of(
        cls,
        box: spaces.Box,
        device: torch.device | str = "cpu",
        name: Callable[[int], str] | None = None,
    ) -> "Bounds | None":
        """Return the bounds of a box, or None if all are infinite."""
        if not (np.isfinite(box.low).any() or np.isfinite(box.high).any()):
            return None
        return cls(box, device, name)

    def holds(self, rows: Tensor) -> bool:
        """Return whether all finite values (row, *shape) are inside."""
        outside = (rows < self._low_tensor) | (rows > self._high_tensor)
        return not bool(outside.any()) or not bool((outside & rows.isfinite()).any())

    def first_outside(self, rows: NDArray[np.float32]) -> tuple[int, int] | None:
        """Return the row and flat feature index of the first finite value outside, or None.

        Args:
            rows: (row, *box shape), or flattened.
        """
        flat = rows.reshape(len(rows), -1)
        outside = (flat < self._low.ravel()) | (flat > self._high.ravel())
        if not outside.any() or not (outside := outside & np.isfinite(flat)).any():
            return None
        row, entry = np.argwhere(outside)[0].tolist()
        return row, entry

    def complaint(self, row: NDArray[np.float32]) -> str | None:
        """Return the end of a sentence "the observation is ..."; None if it is inside.

        Args:
            row: one observation, of the box's size in any shape.
        """
        found = self.first_outside(row[None])
        if found is None:
            return None
        entry = found[1]
        place = self._name(entry) if self._name else index_in(row.shape, entry)
        low, high = float(self._box.low.flat[entry]), float(self._box.high.flat[entry])
        return (
            f"outside of its space: {float(row.flat[entry]):.6g}{f' at {place}' if place else ''}, "
            f"where the space has [{low:.6g}, {high:.6g}]; widen the observation space, or pass "
            "check_bounds=False"
        )
