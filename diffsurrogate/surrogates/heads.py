"""Reward and termination models.

A penalty for falling or a goal bonus may be a thousand times as large as the rewards of ordinary
steps. One regression would spend its capacity, its units and its minibatches on them, and lose the
slope of ordinary rewards, which is what a policy climbs. The reward model is a mixture that keeps
both: $R = (1 - p) f + p g$, with the regression f of ordinary rewards, the probability p of an
event and its size g.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsurrogate.config import require_choices
from diffsurrogate.distributed import (
    count_per_rank,
    max_over_ranks,
    mean_over_ranks,
    min_over_ranks,
    rows_of_ranks,
    sum_over_ranks,
)
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import NetConfig, SharedNetConfig
from diffsurrogate.nets.normaliser import (
    SMALLEST,
    OrdinaryRange,
    RunningStatistics,
    scale_of_change,
)
from diffsurrogate.seeding import seeded
from diffsurrogate.surrogates.dynamics import Batch, repeat_to

RewardInputs = Literal["s,a", "s,a,s'", "s'", "s,a,change"]
RewardRange = Literal["bounded", "unbounded"]


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A reward model: network, inputs and output range."""

    net: NetConfig = field(
        default_factory=lambda: SharedNetConfig(hidden=(128, 128), activation="silu", agent_id=True)
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


_FEWEST = 10
"""Events from which a model of them is trained."""


def _look_again(model: "EventModel", _: Any) -> None:
    """Read the count of a loaded model; a function by name, which can be pickled."""
    model._look()


class EventModel(nn.Module):
    """Probability and size of an event, for each agent."""

    mean: Tensor
    std: Tensor
    rate: Tensor
    seen: Tensor

    def __init__(self, net: NetConfig, agents: int, in_dim: int) -> None:
        """Build; a new model says that nothing happens."""
        super().__init__()
        self.net = build_net(net, agents, in_dim, 2, head_gain=0.0)
        self.register_buffer("mean", torch.zeros(agents))
        self.register_buffer("std", torch.ones(agents))
        self.register_buffer("rate", torch.zeros(agents))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.active = False
        """Whether enough events were seen to learn from."""
        self.register_load_state_dict_post_hook(_look_again)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def count(self, ordinary: Tensor) -> None:
        """Count the events among new rewards (item, agent)."""
        self.seen += sum_over_ranks((~ordinary).sum())
        self._look()
        share = mean_over_ranks((~ordinary).float().mean(0), len(ordinary))
        self.rate = torch.where(self.rate > 0, 0.9 * self.rate + 0.1 * share, share)

    def _look(self) -> None:
        """Read the count of events, once per window and not in every minibatch."""
        self.active = int(self.seen) >= _FEWEST

    @torch.no_grad()
    def update_units(self, reward: Tensor, ordinary: Tensor) -> None:
        """Take mean and deviation of the sizes of events among stored rewards (item, agent)."""
        events = rows_of_ranks(torch.where(ordinary, torch.nan, reward))
        known = (~events.isnan()).sum(0) > 0
        mean = torch.where(known, events.nanmean(0), self.mean)
        deviation = (events - mean).square().nanmean(0).sqrt()
        deviation = torch.maximum(deviation, 1e-3 * mean.abs() + SMALLEST)
        self.mean, self.std = mean, torch.where(known, deviation, self.std)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of an event and its size, each `(*batch, agent)`."""
        ratio, size = self.net(inputs).unbind(-1)
        return ratio + torch.logit(self.rate, eps=1e-6), self.mean + self.std * size

    def loss(self, inputs: Tensor, reward: Tensor, ordinary: Tensor) -> Tensor:
        """Return the loss of a minibatch (item, agent) with events as often as one likes.

        The network learns the log of the likelihood ratio, to which the log odds of events in the
        minibatch are added here, and those of all steps in predictions.
        """
        target = (~ordinary).to(reward.dtype)
        ratio, size = self.net(inputs).unbind(-1)
        drawn = torch.logit(mean_over_ranks(target.mean(0)), eps=1e-3)
        happens = functional.binary_cross_entropy_with_logits(ratio + drawn, target)
        miss = ((self.mean + self.std * size - reward) / self.std).square() * target
        return happens + miss.sum() / count_per_rank(~ordinary)


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
        with seeded():
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
            self.low = torch.minimum(self.low, min_over_ranks(kept.min()))
            self.high = torch.maximum(self.high, max_over_ranks(kept.max()))

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
        out, logit, size = self.parts(obs, action, next_obs)
        return out if logit is None else out + torch.sigmoid(logit) * (size - out)

    def parts(
        self, obs: Tensor, action: Tensor, next_obs: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the reward of an ordinary step, the logit of an event and its size.

        The logit is None until enough events were seen. Arguments as of `forward`.
        """
        inputs = self._inputs(obs, action, next_obs)
        out = self._ordinary(self.net(inputs).squeeze(-1))
        return (out, *self.events(inputs)) if self.events.active else (out, None, out)

    def _ordinary(self, raw: Tensor) -> Tensor:
        """Return the reward of a network's output."""
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
            span = (self.high - self.low).clamp(min=SMALLEST)
            place = ((reward - self.low) / span).clamp(0, 1)
            error = functional.binary_cross_entropy_with_logits(raw, place, reduction="none")
        else:
            error = (raw - self.reward_statistics(reward)).square()
        loss = (error * ordinary).sum() / count_per_rank(ordinary)
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


_USELESS, _USEFUL = 0.1, 0.3
"""Correlations of predicted and held-out rewards up to which the learned gradient does not count,
and from which it counts in full. Its scale does not matter: models of rare rewards exaggerate."""
_LONG = 100
"""Windows with a trust below a half after which the user is told."""


class RewardTrust:
    """How far a reward model's gradient is followed, by rewards it was not trained on."""

    def __init__(self) -> None:
        """Start with full trust."""
        self.value = 1.0
        """Weight of the learned gradient, in [0, 1]."""
        self.windows_distrusted = 0
        self.moments: list[float] = []
        """Running means of p, r, p², r² and p r of predicted and real rewards."""

    def update(self, predicted: Tensor, reward: Tensor) -> None:
        """Set the trust by the correlation of predictions with rewards (item,) of new windows.

        Warns:
            UserWarning: it was low for many windows.
        """
        predicted, reward = predicted.double(), reward.double()  # squares of float32 lose the rest
        pairs = torch.stack([predicted, reward, predicted**2, reward**2, predicted * reward])
        new = mean_over_ranks(pairs.mean(-1), pairs.shape[-1]).tolist()
        if not all(map(math.isfinite, new)):
            self.value *= 0.9
            return
        if self.moments and self.moments[3] > 0:
            new = [0.9 * old + 0.1 * now for old, now in zip(self.moments, new, strict=True)]
        self.moments = new
        mean_p, mean_r, square_p, square_r, product = self.moments
        variance_p, variance_r = square_p - mean_p**2, square_r - mean_r**2
        if min(variance_p, variance_r) <= 1e-12 * max(square_p, square_r):
            return  # nothing to tell apart yet
        correlation = (product - mean_p * mean_r) / math.sqrt(variance_p * variance_r)
        self.value = min(max((correlation - _USELESS) / (_USEFUL - _USELESS), 0.0), 1.0)
        self.windows_distrusted = self.windows_distrusted + 1 if self.value < 0.5 else 0
        if self.windows_distrusted == _LONG:
            warnings.warn(
                "the reward model says little of rewards it has not seen (correlation "
                f"{correlation:.2f} over {_LONG} windows): its gradient counts only with a weight "
                f"of {self.value:.2g}; `diffsurrogate doctor` shows what is not predicted",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(state)


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
        drawn = mean_over_ranks(target.mean()).clamp(0.01, 0.99)
        weight = torch.where(target > 0, rate / drawn, (1 - rate) / (1 - drawn))
        logit = self(batch["obs"], batch["action"])
        return functional.binary_cross_entropy_with_logits(logit, target, weight)

    def response(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return a function from actions to the probability of termination."""
        return lambda action: torch.sigmoid(self(repeat_to(batch["obs"], action), action))
