"""Exploration noise drawn for a whole window, so that any step can be recomputed."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.config import require_choices
from diffsurrogate.errors import UsageError

NoiseKind = Literal["auto", "white", "ou"]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Temporal correlation of the exploration noise."""

    kind: NoiseKind = "white"
    """white: independent steps. ou: Ornstein-Uhlenbeck noise. auto: white for discrete actions,
    else ou."""
    correlation: float = 0.9
    """Correlation of consecutive steps of Ornstein-Uhlenbeck noise, in [0, 1)."""

    def __post_init__(self) -> None:
        require_choices(self)
        if not 0 <= self.correlation < 1:
            raise UsageError(f"correlation is {self.correlation}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class NoiseState:
    """Conditional distribution of each step of correlated noise, given the step before."""

    carried: Tensor
    """(time, env, agent, act_dim): its mean."""
    fresh: Tensor
    """(time, 1, 1, 1): its standard deviation."""

    def flat(self) -> "NoiseState":
        """Merge the time and env axes."""
        fresh = self.fresh.expand(-1, self.carried.shape[1], -1, -1)
        return NoiseState(carried=self.carried.flatten(0, 1), fresh=fresh.flatten(0, 1))

    def of_envs(self, chosen: Tensor) -> "NoiseState":
        """Select some envs."""
        return NoiseState(carried=self.carried[:, chosen], fresh=self.fresh)

    def at(self, chosen: Tensor) -> "NoiseState":
        """Select rows of the first axis."""
        return NoiseState(carried=self.carried[chosen], fresh=self.fresh[chosen])


def resolve_noise(config: NoiseConfig, *, discrete: bool) -> NoiseConfig:
    """Replace "auto" by a kind of noise.

    Correlated noise finds sparse rewards more often; but with discrete actions it repeats the same
    action for many steps.
    """
    if config.kind != "auto":
        return config
    return replace(config, kind="white" if discrete else "ou")


class NoiseProcess:
    """Noise of unit variance at each step; OU noise continues from window to window."""

    def __init__(self, config: NoiseConfig, shape: tuple[int, ...], generator: torch.Generator):
        """Make a process of `shape` (env, agent, act_dim) on the generator's device.

        Raises:
            UsageError: the kind of noise is still "auto".
        """
        if config.kind == "auto":
            raise UsageError('noise of kind "auto" must be resolved first, by resolve_noise')
        self.config = config
        self.shape = shape
        self.generator = generator
        self.last: Tensor | None = None

    def draw(self, horizon: int) -> Tensor:
        """Return the next `horizon` steps: (time, env, agent, act_dim)."""
        if self.config.kind == "white":
            return self._normal(horizon)
        return torch.stack([self._next() for _ in range(horizon)])

    def draw_with_state(self, horizon: int) -> tuple[Tensor, NoiseState | None]:
        """Return `draw(horizon)` and, for OU noise, its conditional distribution."""
        if self.config.kind == "white":
            return self.draw(horizon), None
        before, rho = self.last, self.config.correlation
        noise = self.draw(horizon)
        carried = torch.zeros_like(noise)
        carried[1:] = rho * noise[:-1]
        fresh = torch.full((horizon, 1, 1, 1), (1 - rho**2) ** 0.5, device=noise.device)
        if before is None:
            fresh[0] = 1.0
        else:
            carried[0] = rho * before
        return noise, NoiseState(carried=carried, fresh=fresh)

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return the last noise drawn, if it is correlated."""
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Restore what `state_dict` returned."""
        self.last = state["last"]

    def _normal(self, steps: int) -> Tensor:
        return torch.randn(
            (steps, *self.shape), generator=self.generator, device=self.generator.device
        )

    def _next(self) -> Tensor:
        if self.last is None:
            self.last = self._normal(1)[0]
        else:
            rho = self.config.correlation
            self.last = rho * self.last + (1 - rho**2) ** 0.5 * self._normal(1)[0]
        return self.last
