"""What envs report beside rewards and ends, such as success or a distance, per env."""

import torch
from torch import Tensor

RESERVED = frozenset({"final_obs", "_final_obs", "value_obs"})
"""Keys of a step's info that are the protocol's own."""


class EpisodeReport:
    """Means over ended episodes of the numbers that envs reported in their last step."""

    def __init__(self) -> None:
        """Start with no episode."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self.episodes: dict[str, int] = {}
        """Over how many episodes the last means are, by name."""

    def add(self, numbers: dict[str, Tensor], ended: Tensor) -> None:
        """Count the episodes that ended in this step.

        Args:
            numbers: (env,) per name; NaN where an env reported none.
            ended: (env,) bool.
        """
        for name, values in numbers.items():
            told = ended & ~values.isnan()
            total = torch.where(told, values, 0.0).sum(dtype=torch.float64)
            self._sums[name] = self._sums.get(name, 0) + total
            self._counts[name] = self._counts.get(name, 0) + told.sum()

    def take(self) -> dict[str, float]:
        """Return the means over episodes that ended since the last call, by name."""
        counts = {name: int(count) for name, count in self._counts.items()}
        self.episodes = {name: count for name, count in counts.items() if count}
        means = {name: float(self._sums[name]) / count for name, count in self.episodes.items()}
        self._sums, self._counts = {}, {}
        return means


def last_of_episodes(
    last: dict[str, Tensor], numbers: dict[str, Tensor], running: Tensor
) -> dict[str, Tensor]:
    """Return the newest numbers (env,) of envs that run, and the last ones of those that do not."""
    nothing = torch.full(running.shape, torch.nan, device=running.device)
    return last | {
        name: torch.where(running & ~values.isnan(), values, last.get(name, nothing))
        for name, values in numbers.items()
    }
