"""The scale of an env's returns, to learn values of order 1 whatever its units."""

import torch
from torch import Tensor, nn


class ReturnScale(nn.Module):
    r"""Running deviation of the discounted return, about zero.

    The return of each env and agent is summed forward, $R_t = \gamma R_{t-1} + r_t$, and starts
    anew with each episode.
    """

    running: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, envs: int, agents: int, gamma: float) -> None:
        """Start at a scale of 1."""
        super().__init__()
        self.gamma = gamma
        self.register_buffer("running", torch.zeros(envs, agents))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, ended: Tensor) -> None:
        """Take in the rewards (time, env, agent) of a window; `ended` (time, env) cuts returns."""
        for r, end in zip(reward, ended, strict=True):
            self.running = self.gamma * self.running + r
            self.square = self.square + self.running.double().square().sum()
            self.count = self.count + self.running.numel()
            self.running = torch.where(end.unsqueeze(-1), 0.0, self.running)

    @property
    def scale(self) -> Tensor:
        """The deviation, a scalar; 1 while every reward was zero."""
        if float(self.square) == 0:
            return torch.ones((), device=self.running.device)
        return (self.square / self.count).sqrt().to(self.running.dtype)
