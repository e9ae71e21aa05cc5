"""How far the changes of observation entries can be foretold, and so carry a gradient."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.9
"""Of the running means, per window."""


class Predictability(nn.Module):
    """Running shares of each entry's change, and of its next value, that a model explains.

    In windows not seen before. Until the first one everything counts as explained; what does not
    change is not.
    """

    error: Tensor
    change: Tensor
    spread: Tensor
    windows: Tensor

    def __init__(self, agents: int, obs_dim: int) -> None:
        """Start with nothing known about `obs_dim` entries of each agent."""
        super().__init__()
        for name in ("error", "change", "spread"):
            self.register_buffer(name, torch.zeros(agents, obs_dim))
        self.register_buffer("windows", torch.tensor(0))

    @torch.no_grad()
    def update(
        self,
        predicted: Float[Tensor, "step agent obs_dim"],
        obs: Float[Tensor, "step agent obs_dim"],
        next_obs: Float[Tensor, "step agent obs_dim"],
    ) -> None:
        """Take in steps of a new window, and what was predicted of them."""
        self.windows += 1
        share = (1 - DECAY) / (1 - DECAY ** float(self.windows))  # running means without a bias
        for mean, difference in (
            (self.error, predicted - next_obs),
            (self.change, next_obs - obs),
            (self.spread, next_obs - next_obs.mean(0)),
        ):
            mean.lerp_(difference.square().mean(0), share)

    @property
    def of_change(self) -> Float[Tensor, "agent obs_dim"]:
        """Share of each entry's mean squared change that is explained, in [0, 1]."""
        return self._share(self.change)

    @property
    def of_value(self) -> Float[Tensor, "agent obs_dim"]:
        """Share of the variance of each entry's next value that is explained, in [0, 1]."""
        return self._share(self.spread)

    def damped(
        self,
        obs: Float[Tensor, "*b agent obs_dim"],
        change: Float[Tensor, "*b agent obs_dim"],
    ) -> Float[Tensor, "*b agent obs_dim"]:
        """Return `obs + change`, each with the square of what is explained of its gradient."""
        parts = ((obs, self.of_value), (change, self.of_change))
        stays, moves = (x.detach() + s.square() * (x - x.detach()) for x, s in parts)
        return stays + moves

    def _share(self, of: Tensor) -> Tensor:
        share = (1 - self.error / of).clamp(min=0)
        known = torch.where(of > 1e-12, share, 0.0)
        return torch.where(self.windows > 0, known, 1.0)
