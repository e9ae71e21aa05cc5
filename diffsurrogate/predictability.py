"""How far the changes of observation entries can be foretold, and so carry a gradient."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.9
"""Of the running means, per window."""


class Predictability(nn.Module):
    """Running share of each entry's change that a model explains in windows not seen before.

    Until the first window every entry counts as explained. What does not move is not.
    """

    error: Tensor
    change: Tensor
    windows: Tensor

    def __init__(self, agents: int, obs_dim: int) -> None:
        """Start with nothing known about `obs_dim` entries of each agent."""
        super().__init__()
        self.register_buffer("error", torch.zeros(agents, obs_dim))
        self.register_buffer("change", torch.zeros(agents, obs_dim))
        self.register_buffer("windows", torch.tensor(0))

    @torch.no_grad()
    def update(
        self,
        error: Float[Tensor, "step agent obs_dim"],
        change: Float[Tensor, "step agent obs_dim"],
    ) -> None:
        """Take in what was predicted wrongly, and what changed, in steps of a new window."""
        for mean, new in ((self.error, error), (self.change, change)):
            mean.mul_(DECAY).add_(new.square().mean(0), alpha=1 - DECAY)
        self.windows += 1

    @property
    def explained(self) -> Float[Tensor, "agent obs_dim"]:
        """Share of each entry's mean squared change that is explained, in [0, 1]."""
        share = (1 - self.error / self.change).clamp(min=0)
        known = torch.where(self.change > 1e-12, share, 0.0)
        return torch.where(self.windows > 0, known, 1.0)

    def damp(self, change: Float[Tensor, "*b agent obs_dim"]) -> Float[Tensor, "*b agent obs_dim"]:
        """Return `change`, and of its gradient the square of what is explained."""
        held = change.detach()
        return held + self.explained.square() * (change - held)
