"""How far losses cancel gains."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.97
"""What a window's rewards still weigh one window later."""
ENOUGH = 0.01
"""Share of the gains that losses must make up to count in full."""


class RewardSignBalance(nn.Module):
    r"""Follows gains and losses of the last thirty windows or so.

    Random pushes of a package to its goal lose as often as they win, and even a policy that knows
    the way loses now and then; a found target is only ever a gain.
    """

    gains: Tensor
    losses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gains", torch.zeros((), dtype=torch.float64))
        self.register_buffer("losses", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "time env agent"]) -> None:
        """Take a window's rewards in; those of a team are summed first."""
        team = reward.double().sum(-1)
        self.gains.mul_(DECAY).add_(team.clamp(min=0).sum())
        self.losses.mul_(DECAY).sub_(team.clamp(max=0).sum())

    @property
    def share(self) -> float:
        """In [0, 1]: 0 with rewards of one sign only; 1 where the rarer sign makes up 1 %.

        It is 1, too, while there was no reward at all.
        """
        less, more = sorted([float(self.gains), float(self.losses)])
        return 1.0 if more == 0 else min(1.0, less / (ENOUGH * more))
