"""Critics: one value per agent, with a slowly moving target copy."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.config import require_range
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_net, build_recurrent_net
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.normaliser import RunningStatistics
from diffsurrogate.nets.recurrent import Recurrence


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """A value function of all agents' observations."""

    net: NetConfig = field(default_factory=NetConfig)
    head_gain: float = 0.0
    """Orthogonal gain of the last layer; at 0 all values are 0 before training."""
    target_decay: float = 0.2
    """α of the target update φ' ← αφ' + (1-α)φ (arXiv:2204.07137, Algorithm 1). SHAC's alone: PPO
    and its like learn from the critic itself."""
    normalise_obs: bool = True
    """Normalise observations by a snapshot of their running statistics."""

    def __post_init__(self) -> None:
        require_range(self, "head_gain", low=0.0)
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"target_decay is {self.target_decay}; it must be in [0, 1)")


class Critic(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to values `(*batch, agent)`.

    One with memory (`NetConfig.memory`) does so along a window, by `unroll` and `values_around`.
    """

    def __init__(self, config: CriticConfig, agents: int, obs_dim: int) -> None:
        """Build the network and its target copy."""
        super().__init__()
        self.config = config
        self.statistics = RunningStatistics((obs_dim,))
        build = build_recurrent_net if config.net.gru_size > 0 else build_net
        self.net = build(config.net, agents, obs_dim, 1, head_gain=config.head_gain)
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        """Return the value being learned.

        Raises:
            UsageError: the critic has memory.
        """
        if self.config.net.gru_size > 0:
            raise UsageError(
                "this critic has memory, so that an observation alone has no value; use unroll or "
                "values_around"
            )
        out: Tensor = self.net(self._inputs(obs)).squeeze(-1)
        return out

    def unroll(self, obs: Tensor, past: Recurrence) -> tuple[Tensor, Tensor]:
        """Return values along a window and the hidden states after each step.

        Args:
            obs: (time, *batch, agent, obs_dim).
            past: what was known before.

        Returns:
            (time, *batch, agent) and (time, *batch, agent, memory).
        """
        out, hidden = self.net(self._inputs(obs), past)
        return out.squeeze(-1), hidden

    def values_around(
        self, obs: Tensor, next_obs: Tensor, past: Recurrence
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values of what each step started from and led to, and of what is remembered.

        What a step led to is seen with the memory of that step, whether or not its episode ended
        there: `next_obs` is from before the reset.

        Args:
            obs: (time, env, agent, obs_dim).
            next_obs: (time, env, agent, obs_dim).
            past: what was known before.

        Returns:
            two of (time, env, agent), and hidden states (time, env, agent, memory).
        """
        value, hidden = self.unroll(obs, past)
        goes_on = torch.zeros_like(past.episode_start).unsqueeze(0)
        after = Recurrence(hidden=hidden, episode_start=goes_on)
        next_value, _ = self.unroll(next_obs.unsqueeze(0), after)
        return value, next_value.squeeze(0), hidden

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
