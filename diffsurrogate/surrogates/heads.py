"""Reward and termination models."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsurrogate.config import require_choices
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import NetConfig, SharedNetConfig
from diffsurrogate.nets.normaliser import RunningStatistics
from diffsurrogate.surrogates.dynamics import Batch, repeat_to, scale_of_change
from diffsurrogate.surrogates.events import EventModel, OrdinaryRange

RewardInputs = Literal["s,a", "s,a,s'", "s'", "s,a,change"]
RewardRange = Literal["bounded", "unbounded"]


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A reward model: network, inputs and output range."""

    net: NetConfig = field(
        default_factory=lambda: SharedNetConfig(hidden=(128, 128), activation="silu")
    )
    inputs: RewardInputs = "s,a,change"
    """s: observation. a: action. s': next observation. change: s' - s of continuous features, in
    standard deviations of such changes. Flags in s' can predict a reward perfectly and still pass
    no useful gradient; change leaves them out."""
    range: RewardRange = "unbounded"
    """unbounded: regression by mean squared error. bounded: a sigmoid between the smallest and the
    largest reward seen (or 0), fitted by cross-entropy; its gradient vanishes at both ends, which
    suits sparse rewards."""

    def __post_init__(self) -> None:
        require_choices(self)


class RewardModel(nn.Module):
    r"""$R_\theta(s, a, s')$ of SHAC++ (section 3), with normalised inputs and outputs."""

    low: Tensor
    high: Tensor

    def __init__(self, config: RewardConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; a new model's output is constant."""
        super().__init__()
        self.config = config
        more = 0 if config.inputs == "s,a" else obs_dim
        in_dim = obs_dim if config.inputs == "s'" else obs_dim + act_dim + more
        self.net = build_net(config.net, agents, in_dim, 1, head_gain=0.0)
        shape, shared = (agents, obs_dim), config.net.same_for_all
        self.obs_statistics = RunningStatistics(shape, shared=shared)
        self.change_statistics = RunningStatistics(shape, shared=shared, flags=False)
        self.reward_statistics = RunningStatistics((agents,), shared=shared, limit=math.inf)
        self.ordinary = OrdinaryRange(agents)
        with torch.random.fork_rng(devices=[]):
            self.events = EventModel(config.net, agents, in_dim)
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))

    def update_normaliser(
        self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor | None = None
    ) -> None:
        """Update the input statistics and the range of rewards with steps `(*any, agent, …)`."""
        self.obs_statistics.update(obs, alive)
        self.obs_statistics.snapshot()
        if self.config.inputs == "s,a,change":
            self.change_statistics.update(next_obs - obs, alive)
            self.change_statistics.snapshot()
        if reward.numel() > 0:
            kept = reward.masked_fill(~self.ordinary.holds(reward), 0.0)
            self.low = torch.minimum(self.low, kept.min())
            self.high = torch.maximum(self.high, kept.max())

    def update_units(self, reward: Tensor) -> None:
        """Update mean and deviation of ordinary rewards, and those of events: (item, agent)."""
        ordinary = self.ordinary.holds(reward)
        self.reward_statistics.update(reward, ordinary)
        self.reward_statistics.snapshot()
        self.events.update_units(reward, ordinary)

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return rewards `(*batch, agent)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), normalised.
            next_obs: (*batch, agent, obs_dim), before any reset.
        """
        inputs = self._inputs(obs, action, next_obs)
        out = self._ordinary_reward(self.net(inputs).squeeze(-1))
        if not self.events.active:
            return out
        logit, size = self.events(inputs)
        return out + torch.sigmoid(logit) * (size - out)

    def _ordinary_reward(self, raw: Tensor) -> Tensor:
        """Return the reward of a network's output, if it is no event."""
        if self.config.range == "bounded":
            return self.low + (self.high - self.low) * torch.sigmoid(raw)
        scale = self.reward_statistics
        out: Tensor = scale.mean + scale.std * raw
        return out

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a minibatch: of ordinary rewards, and of events once there are any.

        Of ordinary rewards the mean squared error in their standard deviations; with a bounded
        range the cross-entropy with the reward's position in it.
        """
        reward = batch["reward"]
        inputs = self._inputs(batch["obs"], batch["action"], batch["next_obs"])
        raw, ordinary = self.net(inputs).squeeze(-1), self.ordinary.holds(reward)
        if self.config.range == "bounded":
            span = (self.high - self.low).clamp(min=1e-6)
            place = ((reward - self.low) / span).clamp(0, 1)
            error = functional.binary_cross_entropy_with_logits(raw, place, reduction="none")
        else:
            error = (raw - self.reward_statistics(reward)).square()
        loss = error[ordinary].mean()
        if self.events.active:
            loss = loss + self.events.loss(inputs, reward, ordinary)
        return loss

    def response(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return a function from actions to rewards, in their standard deviations."""

        def scaled(action: Tensor) -> Tensor:
            obs, next_obs = (repeat_to(batch[name], action) for name in ("obs", "next_obs"))
            reward: Tensor = self(obs, action, next_obs)
            return reward / self.reward_statistics.std

        return scaled

    def _inputs(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        inputs = self.config.inputs
        parts = [] if inputs == "s'" else [self.obs_statistics(obs), action]
        if inputs == "s,a,change":
            change = (next_obs - obs) / scale_of_change(self.change_statistics, self.obs_statistics)
            parts.append(torch.where(self.obs_statistics.measurement, change, 0.0))
        elif inputs != "s,a":
            parts.append(self.obs_statistics(next_obs))
        return torch.cat(parts, dim=-1)


class TerminationModel(nn.Module):
    """Logit that a step from s with a terminates the episode: `(*batch,)`."""

    def __init__(self, net: NetConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the logit is the mean of one output per agent."""
        super().__init__()
        self.net = build_net(net, agents, obs_dim + act_dim, 1, head_gain=0.0)
        self.obs_statistics = RunningStatistics((agents, obs_dim), shared=net.same_for_all)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the logit for obs `(*batch, agent, obs_dim)` and normalised actions."""
        inputs = torch.cat([self.obs_statistics(obs), action], dim=-1)
        out: Tensor = self.net(inputs).squeeze(-1).mean(-1)
        return out

    def loss(self, batch: Batch, rate: float) -> Tensor:
        """Return the cross-entropy, reweighted from balanced sampling to the true frequencies.

        Args:
            batch: with `terminated` (batch,), sampled evenly from both classes.
            rate: fraction of steps that terminate.
        """
        target = batch["terminated"]
        drawn = target.mean().clamp(0.01, 0.99)
        weight = torch.where(target > 0, rate / drawn, (1 - rate) / (1 - drawn))
        logit = self(batch["obs"], batch["action"])
        return functional.binary_cross_entropy_with_logits(logit, target, weight)

    def response(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return a function from actions to the probability of termination."""
        return lambda action: torch.sigmoid(self(repeat_to(batch["obs"], action), action))
