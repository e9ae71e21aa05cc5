"""Exploration noise drawn for a whole window, so that any step of it can be run again."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.config import require_choices
from diffsurrogate.errors import UsageError

NoiseKind = Literal["auto", "white", "held", "ou", "pink"]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How the reparameterised noise of consecutive steps hangs together."""

    kind: NoiseKind = "white"
    """auto: white where actions are choices, else ou. white: independent. held: the same for `hold`
    steps. ou: Ornstein-Uhlenbeck. pink: 1/f power over a window (arXiv:2306.14728)."""
    hold: int = 8
    """Steps for which held noise stays."""
    correlation: float = 0.9
    """Correlation of consecutive steps of Ornstein-Uhlenbeck noise."""

    def __post_init__(self) -> None:
        require_choices(self)
        if self.hold < 1:
            raise UsageError(f"hold is {self.hold}; noise must be held for at least 1 step")
        if not 0 <= self.correlation < 1:
            raise UsageError(f"correlation is {self.correlation}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class NoiseState:
    """What was known of correlated noise before each step of it was drawn."""

    carried: Tensor
    """(time, env, agent, act_dim): its mean, given the step before."""
    fresh: Tensor
    """(time, 1, 1, 1): its deviation about that."""

    def flat(self) -> "NoiseState":
        """Return it with time and env as one axis."""
        fresh = self.fresh.expand(-1, self.carried.shape[1], -1, -1)
        return NoiseState(carried=self.carried.flatten(0, 1), fresh=fresh.flatten(0, 1))

    def at(self, chosen: Tensor) -> "NoiseState":
        """Return rows of the first axis."""
        return NoiseState(carried=self.carried[chosen], fresh=self.fresh[chosen])


def resolve_noise(config: NoiseConfig, *, choices: bool) -> NoiseConfig:
    """Return the noise that "auto" means.

    Correlated noise finds sparse rewards several times as often as white noise; choices it holds
    for many steps at a time, which hardly any task forgives.
    """
    if config.kind != "auto":
        return config
    return replace(config, kind="white" if choices else "ou")


class NoiseProcess:
    """Noise of unit variance at each step; held and OU noise go on over window borders."""

    def __init__(self, config: NoiseConfig, shape: tuple[int, ...], generator: torch.Generator):
        """Make a process of `shape` (env, agent, act_dim) on the generator's device.

        Raises:
            UsageError: what kind of noise is not settled.
        """
        if config.kind == "auto":
            raise UsageError('noise of kind "auto" must be settled first, by noise.settled')
        self.config = config
        self.shape = shape
        self.generator = generator
        self.last: Tensor | None = None
        self.age = 0

    def draw(self, horizon: int) -> Tensor:
        """Return the next `horizon` steps: (time, env, agent, act_dim)."""
        kind = self.config.kind
        if kind == "white":
            return self._normal(horizon)
        if kind == "pink":
            return self._pink(horizon)
        return torch.stack([self._next() for _ in range(horizon)])

    def draw_with_state(self, horizon: int) -> tuple[Tensor, NoiseState | None]:
        """Return `draw(horizon)` and, of Ornstein-Uhlenbeck noise, what its past said of it.

        Raises:
            UsageError: held or pink noise, which has no density step by step.
        """
        if self.config.kind == "white":
            return self.draw(horizon), None
        if self.config.kind != "ou":
            raise UsageError(
                f"{self.config.kind} noise has no density step by step, which a likelihood ratio "
                "needs; use white or ou noise"
            )
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

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """Return where the process stands."""
        return {"last": self.last, "age": self.age}

    def load_state_dict(self, state: dict[str, Tensor | int | None]) -> None:
        """Go on from where `state_dict` was taken."""
        last, age = state["last"], state["age"]
        assert last is None or isinstance(last, Tensor)
        assert isinstance(age, int)
        self.last, self.age = last, age

    def _normal(self, steps: int) -> Tensor:
        return torch.randn(
            (steps, *self.shape), generator=self.generator, device=self.generator.device
        )

    def _next(self) -> Tensor:
        if self.last is None:
            self.last, self.age = self._normal(1)[0], 1
            return self.last
        if self.config.kind == "held":
            if self.age >= self.config.hold:
                self.last, self.age = self._normal(1)[0], 0
            self.age += 1
        else:
            rho = self.config.correlation
            self.last = rho * self.last + (1 - rho**2) ** 0.5 * self._normal(1)[0]
        return self.last

    def _pink(self, horizon: int) -> Tensor:
        """Shape white noise to a 1/f power spectrum and rescale to unit variance at each step."""
        if horizon == 1:
            return self._normal(1)
        spectrum = torch.fft.rfft(self._normal(horizon), dim=0)
        frequency = torch.arange(len(spectrum), device=spectrum.device).clamp(min=1)
        gain = frequency.rsqrt().reshape(-1, *[1] * len(self.shape))
        doubled = torch.full((len(spectrum),), 2.0, device=spectrum.device)
        doubled[0] = 1.0
        if horizon % 2 == 0:
            doubled[-1] = 1.0
        variance = (doubled * gain.flatten().square()).sum() / horizon
        return torch.fft.irfft(spectrum * gain, n=horizon, dim=0) * variance.rsqrt()
