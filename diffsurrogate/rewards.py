"""Reward models: one reward per agent from what all agents saw and did."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from diffsurrogate.configuration import require_choices, require_range
from diffsurrogate.nets import NetConfig, build_net
from diffsurrogate.normalise import RunningStatistics

RewardInputs = Literal["s,a", "s,a,s'", "s'"]


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A reward model and its inputs."""

    net: NetConfig = field(
        default_factory=lambda: NetConfig(
            architecture="shared", hidden=(128, 128), activation="silu"
        )
    )
    inputs: RewardInputs = "s,a"
    """A reward that can be read off a flag in the next observation ("eaten") fits perfectly and
    teaches nothing, so the next observation is left out by default."""
    obs_floor: float = 0.02
    """Smallest standard deviation an observation entry is normalised by."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "obs_floor", low=1e-12)


class RewardModel(nn.Module):
    r"""$R_\theta(s, a, s')$ of SHAC++ (section 3), normalised in and out."""

    def __init__(self, config: RewardConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; a new model answers the same everywhere."""
        super().__init__()
        self.config = config
        in_dim = {"s,a": obs_dim + act_dim, "s,a,s'": 2 * obs_dim + act_dim, "s'": obs_dim}
        self.net = build_net(config.net, agents, in_dim[config.inputs], 1, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=config.obs_floor)
        self.reward_statistics = RunningStatistics((), floor=1e-3)

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return rewards `(*batch, agent)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), in half boxes.
            next_obs: (*batch, agent, obs_dim), before any reset.
        """
        scale = self.reward_statistics
        out: Tensor = scale.mean + scale.std * self._net(obs, action, next_obs)
        return out

    def loss(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """Return the mean squared error in units of the rewards' standard deviation."""
        target = self.reward_statistics(reward)
        return (self._net(obs, action, next_obs) - target).square().mean()

    def _net(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        inputs = self.config.inputs
        parts = [] if inputs == "s'" else [self.obs_statistics(obs), action]
        if inputs != "s,a":
            parts.append(self.obs_statistics(next_obs))
        out: Tensor = self.net(torch.cat(parts, dim=-1)).squeeze(-1)
        return out
