"""What is predicted of a step besides the next observation: reward and termination."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsurrogate.config import require_choices
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.normaliser import RunningStatistics
from diffsurrogate.surrogates.dynamics import CHANGE_FLOOR, OBS_FLOOR, Batch, repeat_to

RewardInputs = Literal["s,a", "s,a,s'", "s'", "s,a,change"]
RewardRange = Literal["bounded", "unbounded"]


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A reward model and its inputs."""

    net: NetConfig = field(
        default_factory=lambda: NetConfig(
            architecture="shared", hidden=(128, 128), activation="silu"
        )
    )
    inputs: RewardInputs = "s,a,change"
    """change: s' - s in standard deviations of such changes, without features that only take whole
    numbers. Many rewards are a plain function of it (a distance covered), which from s' itself is
    the small difference of large numbers, and from s and a all of the dynamics. A reward that can
    be read off a flag in s' ("eaten") fits perfectly and teaches nothing."""
    range: RewardRange = "unbounded"
    """unbounded: a regression. bounded: a logistic function between the least and the largest of 0
    and the rewards seen, fitted by cross-entropy: flat wherever the reward is at either end, so
    that the errors of a sparse reward's model do not drown the gradient of the value."""

    def __post_init__(self) -> None:
        require_choices(self)


class RewardModel(nn.Module):
    r"""$R_\theta(s, a, s')$ of SHAC++ (section 3), normalised in and out."""

    low: Tensor
    high: Tensor

    def __init__(self, config: RewardConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; a new model answers the same everywhere."""
        super().__init__()
        self.config = config
        more = 0 if config.inputs == "s,a" else obs_dim
        in_dim = obs_dim if config.inputs == "s'" else obs_dim + act_dim + more
        self.net = build_net(config.net, agents, in_dim, 1, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=OBS_FLOOR)
        self.change_statistics = RunningStatistics((obs_dim,), floor=CHANGE_FLOOR)
        self.reward_statistics = RunningStatistics((), floor=1e-3)
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))

    def update_normaliser(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> None:
        """Take in steps `(*any, agent, …)`: the scale of what goes in, the range of rewards."""
        self.obs_statistics.update(obs)
        self.obs_statistics.snapshot()
        if self.config.inputs == "s,a,change":
            self.change_statistics.update(next_obs - obs)
            self.change_statistics.snapshot()
        if reward.numel() > 0:
            self.low = torch.minimum(self.low, reward.min())
            self.high = torch.maximum(self.high, reward.max())

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return rewards `(*batch, agent)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), in half boxes.
            next_obs: (*batch, agent, obs_dim), before any reset.
        """
        raw = self._net(obs, action, next_obs)
        if self.config.range == "bounded":
            return self.low + (self.high - self.low) * torch.sigmoid(raw)
        scale = self.reward_statistics
        out: Tensor = scale.mean + scale.std * raw
        return out

    def loss(self, batch: Batch) -> Tensor:
        """Return the error of a minibatch."""
        return self.error(batch["obs"], batch["action"], batch["next_obs"], batch["reward"])

    def response(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return what maps actions to rewards, in their deviations."""

        def scaled(action: Tensor) -> Tensor:
            obs, next_obs = (repeat_to(batch[name], action) for name in ("obs", "next_obs"))
            reward: Tensor = self(obs, action, next_obs)
            return reward / self.reward_statistics.std

        return scaled

    def error(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """Return the mean squared error in units of the rewards' standard deviation.

        With a bounded range: the cross-entropy, with the reward's place in the range as target.
        """
        if self.config.range == "bounded":
            span = (self.high - self.low).clamp(min=1e-6)
            place = ((reward - self.low) / span).clamp(0, 1)
            raw = self._net(obs, action, next_obs)
            return functional.binary_cross_entropy_with_logits(raw, place)
        target = self.reward_statistics(reward)
        return (self._net(obs, action, next_obs) - target).square().mean()

    def _net(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        inputs = self.config.inputs
        parts = [] if inputs == "s'" else [self.obs_statistics(obs), action]
        if inputs == "s,a,change":
            change = (next_obs - obs) / self.change_statistics.std
            parts.append(torch.where(self.obs_statistics.fractional, change, 0.0))
        elif inputs != "s,a":
            parts.append(self.obs_statistics(next_obs))
        out: Tensor = self.net(torch.cat(parts, dim=-1)).squeeze(-1)
        return out


class TerminationModel(nn.Module):
    """Logit that a step from s with a ends the episode by state: `(*batch,)`."""

    def __init__(self, net: NetConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the logit is the mean over agents of one output each."""
        super().__init__()
        self.net = build_net(net, agents, obs_dim + act_dim, 1, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=OBS_FLOOR)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the logit for obs `(*batch, agent, obs_dim)` and action in half boxes."""
        inputs = torch.cat([self.obs_statistics(obs), action], dim=-1)
        out: Tensor = self.net(inputs).squeeze(-1).mean(-1)
        return out

    def loss(self, batch: Batch, rate: float) -> Tensor:
        """Return the cross-entropy, weighted as if both ends were drawn as often as they happen.

        Args:
            batch: with `terminated` (batch,), drawn evenly.
            rate: share of steps that terminate.
        """
        target = batch["terminated"]
        drawn = target.mean().clamp(0.01, 0.99)
        weight = torch.where(target > 0, rate / drawn, (1 - rate) / (1 - drawn))
        logit = self(batch["obs"], batch["action"])
        return functional.binary_cross_entropy_with_logits(logit, target, weight)

    def response(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return what maps actions to the probability of termination."""
        return lambda action: torch.sigmoid(self(repeat_to(batch["obs"], action), action))
