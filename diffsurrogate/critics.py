"""Critics: one value per agent, with a slowly moving target copy."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError
from diffsurrogate.nets import NetConfig, build_net
from diffsurrogate.normalise import RunningStatistics


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """A value function of all agents' observations."""

    net: NetConfig = field(default_factory=NetConfig)
    target_decay: float = 0.2
    """α of the target update φ' ← αφ' + (1-α)φ (arXiv:2204.07137, Algorithm 1)."""
    normalise_obs: bool = True
    """Normalise observations by a snapshot of their running statistics."""

    def __post_init__(self) -> None:
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"target_decay is {self.target_decay}; it must be in [0, 1)")


class Critic(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to values `(*batch, agent)`."""

    def __init__(self, config: CriticConfig, agents: int, obs_dim: int) -> None:
        """Build the network and its target copy."""
        super().__init__()
        self.config = config
        self.statistics = RunningStatistics((obs_dim,))
        self.net = build_net(config.net, agents, obs_dim, 1, head_gain=0.0)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        """Return the value being learned."""
        out: Tensor = self.net(self._inputs(obs)).squeeze(-1)
        return out

    def target(self, obs: Tensor) -> Tensor:
        """Return the target copy's value; its weights are frozen, its input gradient is not."""
        out: Tensor = self.target_net(self._inputs(obs)).squeeze(-1)
        return out

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target copy towards the learned weights."""
        pairs = zip(self.target_net.parameters(), self.net.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - self.config.target_decay)

    def _inputs(self, obs: Tensor) -> Tensor:
        return self.statistics(obs) if self.config.normalise_obs else obs
