"""Episodes of many envs: their steps and returns so far, and what those that ended came to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

RESERVED = frozenset({"final_obs", "_final_obs", "value_obs"})
"""Keys of a step's info that are the protocol's own."""


class Episodes:
    """The running episode of each env, and a report of those that ended."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        """Begin one in each env."""
        self.device = device
        self.steps = torch.zeros(num_envs, dtype=torch.long, device=device)
        """(env,): steps so far."""
        self.returns = torch.zeros(num_envs, dtype=torch.float64, device=device)
        """(env,): reward so far, summed over agents; -inf of a first episode that is cut."""
        self.started = torch.ones(num_envs, dtype=torch.bool, device=device)
        """(env,) bool: no step was taken since the last start."""
        self.report = EpisodeReport()

    def begin(self, mask: Tensor | None = None) -> None:
        """Begin anew where `mask` (env,) is set, or everywhere, without a report of what was."""
        mask = torch.ones_like(self.started) if mask is None else mask
        self._restart(mask)
        self.started = self.started | mask

    def advance(self, reward: Tensor) -> None:
        """Count a step's rewards (env, agent)."""
        self.steps = self.steps + 1
        self.returns = self.returns + reward.detach().double().sum(-1)

    def end(self, ended: Tensor, told: dict[str, Tensor]) -> None:
        """Report the episodes that end in this step, and begin anew in their envs.

        Args:
            ended: (env,) bool.
            told: numbers (env,) that envs told in this step, by name.
        """
        self.started = ended
        if not bool(ended.any()):
            return
        whole = torch.where(self.returns.isfinite(), self.returns, torch.nan)
        length = torch.where(whole.isnan(), torch.nan, self.steps)
        own = {"episode_return": whole, "episode_length": length}
        self.report.add(own | {f"info/{name}": values for name, values in told.items()}, ended)
        self._restart(ended)

    def spread(self, limit: int, generator: torch.Generator, every: int) -> None:
        """Begin at random steps below `limit`, multiples of `every`; these first episodes are cut.

        Args:
            limit: steps of a whole episode.
            generator: on the CPU.
            every: steps between phases.
        """
        steps = every * torch.randint(-(-limit // every), self.steps.shape, generator=generator)
        self.steps = steps.to(self.device)
        self.returns = self.returns.masked_fill(self.steps > 0, -torch.inf)

    def state(self) -> dict[str, Tensor]:
        """Return where every episode stands."""
        own = {"steps": self.steps, "returns": self.returns, "began": self.started}
        return {name: values.clone() for name, values in own.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, on whatever device."""
        self.steps = state["steps"].to(self.device, copy=True)
        self.returns = state["returns"].to(self.device, torch.float64, copy=True)
        self.started = state["began"].to(self.device, copy=True)

    def _restart(self, mask: Tensor) -> None:
        self.steps = torch.where(mask, 0, self.steps)
        self.returns = torch.where(mask, 0.0, self.returns)


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
