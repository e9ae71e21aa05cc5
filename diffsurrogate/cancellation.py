"""How far rewards of either sign cancel each other."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.97
"""What a window's rewards still weigh one window later."""


class Cancellation(nn.Module):
    r"""Follows $1 - |\sum r| / \sum |r|$ over the rewards of the last thirty windows or so.

    1 where losses are as large as gains, 0 where all rewards are of one sign. Random pushes of a
    package to its goal lose as often as they win; a policy that knows the way does not.
    """

    total: Tensor
    size: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("size", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "time env agent"]) -> None:
        """Take a window's rewards in."""
        team = reward.double().sum(-1)
        self.total.mul_(DECAY).add_(team.sum())
        self.size.mul_(DECAY).add_(team.abs().sum())

    @property
    def share(self) -> float:
        """In [0, 1]; 1 while there was no reward at all."""
        if self.size == 0:
            return 1.0
        return float(1 - self.total.abs() / self.size)
