"""The finite bounds of a raw env's observations, which it may not leave by more than rounding."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from diffsurrogate.wrappers.raw_env import flat_box

SLACK = 1e-3
"""How much of its range, or of its only bound, a number may lie outside: integrators overshoot a
wall by about as much, and what was scaled wrongly does so by far more."""
LEAST_SLACK = 1e-6
"""What it may in any case, such as below a bound of 0: a few float32 roundings of 1."""
TOO_NARROW = {"gymnasium.envs.box2d.lunar_lander:LunarLander"}
"""Entry points of envs that everybody uses although they leave their spaces: a lander that flies
up does. Their bounds are not checked."""


class Bounds:
    """The box of one copy's flattened observation, widened by the slack."""

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """Widen a box; bounds that are infinite check nothing."""
        self.low, self.high = low.ravel(), high.ravel()
        wide_low, wide_high = self.low.astype(np.float64), self.high.astype(np.float64)
        bounded = np.isfinite(wide_low) & np.isfinite(wide_high)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite bounds; the largest float32
            ranges = wide_high - wide_low
            slacks = [
                SLACK * np.where(bounded, ranges, np.abs(bound)) + LEAST_SLACK
                for bound in (wide_low, wide_high)
            ]
            self._low = np.float32(wide_low - slacks[0])
            self._high = np.float32(wide_high + slacks[1])

    @classmethod
    def of(cls, space: gymnasium.Space[Any]) -> "Bounds | None":
        """Return the bounds of a space's flattened observations; None if nothing is to be checked.

        Integers that may take all values of their type, such as pictures, cannot leave the space.
        """
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
            limits = np.iinfo(space.dtype)
            if (space.low == limits.min).all() and (space.high == limits.max).all():
                return None
        box = flat_box(space)
        if box is None or not (np.isfinite(box.low).any() or np.isfinite(box.high).any()):
            return None
        return cls(box.low, box.high)

    def first_outside(self, rows: NDArray[np.float32]) -> tuple[int, int] | None:
        """Return the row and entry of the first number outside; None if there is none.

        Args:
            rows: (row, ...), of as many numbers each as the box has.
        """
        flat = rows.reshape(len(rows), -1)
        outside = (flat < self._low) | (flat > self._high)
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
        low, high = float(self.low[entry]), float(self.high[entry])
        return (
            f"outside of its space: {float(row.flat[entry]):.6g}{f' at {place}' if place else ''}, "
            f"where the space has [{low:.6g}, {high:.6g}]; widen the observation space, or pass "
            "check_bounds=False to as_multi_agent or make"
        )


def is_too_narrow(spec: Any) -> bool:
    """Return whether the env of a spec is known to leave its space; False without a spec."""
    return getattr(spec, "entry_point", None) in TOO_NARROW
