"""The finite bounds of observations, which an env may not leave by more than rounding."""

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

SLACK = 1e-3
"""How much of its range, or of its only bound, a number may lie outside: integrators overshoot a
wall by about as much, and what was scaled wrongly does so by far more."""
LEAST_SLACK = 1e-6
"""What it may in any case, such as below a bound of 0: a few float32 roundings of 1."""


class Bounds:
    """A box around observations, widened by the slack; bounds that are infinite check nothing."""

    def __init__(self, box: spaces.Box, device: torch.device | str = "cpu") -> None:
        """Widen a box.

        Args:
            box: of one copy's observation, of any shape.
            device: of the observations that `holds` is asked about.
        """
        self._box = box
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
    def of(cls, box: spaces.Box, device: torch.device | str = "cpu") -> "Bounds | None":
        """Return the bounds of a box; None if all are infinite."""
        if not (np.isfinite(box.low).any() or np.isfinite(box.high).any()):
            return None
        return cls(box, device)

    def holds(self, rows: Tensor) -> bool:
        """Return whether all numbers (row, *shape) are inside."""
        outside = (rows < self._low_tensor) | (rows > self._high_tensor)
        return not bool(outside.any())

    def first_outside(self, rows: NDArray[np.float32]) -> tuple[int, int] | None:
        """Return the row and entry of the first number outside; None if there is none.

        Args:
            rows: (row, ...), of as many numbers each as the box has.
        """
        flat = rows.reshape(len(rows), -1)
        outside = (flat < self._low.ravel()) | (flat > self._high.ravel())
        if not outside.any():
            return None
        row, entry = np.argwhere(outside)[0].tolist()
        return row, entry

    def complaint(self, row: NDArray[np.float32]) -> str | None:
        """Return what is wrong with one observation; it goes on after "is". None if it is inside.

        Args:
            row: of as many numbers as the box has, in any shape.
        """
        found = self.first_outside(row[None])
        if found is None:
            return None
        entry = found[1]
        place = [int(axis) for axis in np.unravel_index(entry, row.shape)]
        low, high = float(self._box.low.flat[entry]), float(self._box.high.flat[entry])
        return (
            f"outside of its space: {float(row.flat[entry]):.6g}{f' at {place}' if place else ''}, "
            f"where the space has [{low:.6g}, {high:.6g}]; widen the observation space, or pass "
            "check_bounds=False"
        )
