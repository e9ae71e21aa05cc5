"""Copies of an env with values that are not finite, which updates do without."""

import warnings

from torch import Tensor

from diffsurrogate.distributed import fewest
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError

IN_A_ROW = 10
"""Consecutive faulty updates that cause a warning or an error."""


class BrokenCopies:
    """Finds the copies to learn from, and counts the others.

    A copy with an observation, action or reward that is not finite costs its own share of the
    update. Where a rank has no other, all ranks do without the update.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        """Windows of single copies that were left out."""
        self._without_update = 0  # consecutive windows

    def finite_copies(self, window: Window) -> Tensor | None:
        """Return the indices of the copies to learn from; None for all.

        Raises:
            UsageError: no copy was finite in any of the last windows.

        Warns:
            RuntimeWarning: for the first time.
        """
        finite = window.finite_envs
        kept = finite.nonzero().squeeze(-1)
        found = "the envs of another process broke"
        if len(kept) < len(finite):
            found = window.first_not_finite()
            if self.count == 0:
                warnings.warn(
                    f"{found}; its window is left out of the update (broken_copies counts such "
                    "windows)",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self.count += len(finite) - len(kept)
        if fewest(len(kept)) > 0:
            self._without_update = 0
            return None if len(kept) == len(finite) else kept
        self._without_update += 1
        if self._without_update == IN_A_ROW:
            raise UsageError(
                f"in each of the last {IN_A_ROW} updates no env gave finite values only; {found}; "
                "mend the env"
            )
        return kept[:0]
