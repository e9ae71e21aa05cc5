"""Rare events among rewards: which rewards are ordinary, and a model of those that are not.

A penalty for falling or a goal bonus may be a thousand times as large as the rewards of ordinary
steps. One regression would spend its capacity, its units and its minibatches on them, and lose the
slope of ordinary rewards, which is what a policy climbs. A mixture keeps both:
$R = (1 - p) f + p g$, with the regression f of ordinary rewards, the probability p of an event and
its size g.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import NetConfig

_KEPT = 4096
"""Newest values from which the range is estimated."""
_SPREADS = 3.0
"""How far beyond the 10 % and 90 % quantiles values are ordinary, in distances of these; 9
standard deviations from the mean of normal values."""
_FEWEST = 10
"""Events from which a model of them is trained."""


class OrdinaryRange(nn.Module):
    """The range of ordinary values, from quantiles of the newest ones.

    Where most values are equal, all are ordinary: there is no slope to protect.
    """

    newest: Tensor
    head: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, columns: int) -> None:
        """Start with every value ordinary, for each of `columns` columns."""
        super().__init__()
        self.register_buffer("newest", torch.full((_KEPT, columns), torch.nan))
        self.register_buffer("head", torch.zeros((), dtype=torch.long))
        self.register_buffer("low", torch.full((columns,), -torch.inf))
        self.register_buffer("high", torch.full((columns,), torch.inf))

    @torch.no_grad()
    def update(self, values: Float[Tensor, "item column"]) -> None:
        """Add values, evenly spaced ones of a large batch, and estimate the range anew."""
        some = values[:: max(1, len(values) // (_KEPT // 8))].to(self.newest)
        slot = (torch.arange(len(some), device=some.device) + self.head) % _KEPT
        self.newest[slot] = some
        self.head = (self.head + len(some)) % _KEPT
        levels = torch.tensor([0.1, 0.9], device=some.device, dtype=some.dtype)
        lower, upper = self.newest.nanquantile(levels, dim=0)
        spread = torch.where(upper > lower, _SPREADS * (upper - lower), torch.inf)
        self.low, self.high = lower - spread, upper + spread

    def holds(self, values: Float[Tensor, "*b column"]) -> Bool[Tensor, "*b column"]:
        """Return which values are ordinary."""
        return (values >= self.low) & (values <= self.high)


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

    @property
    def active(self) -> bool:
        """Whether enough events were seen to learn from."""
        return int(self.seen) >= _FEWEST

    @torch.no_grad()
    def count(self, ordinary: Tensor) -> None:
        """Count the events among new rewards (item, agent)."""
        self.seen += (~ordinary).sum()
        share = (~ordinary).float().mean(0)
        self.rate = torch.where(self.rate > 0, 0.9 * self.rate + 0.1 * share, share)

    @torch.no_grad()
    def update_units(self, reward: Tensor, ordinary: Tensor) -> None:
        """Take mean and deviation of the sizes of events among stored rewards (item, agent)."""
        events = torch.where(ordinary, torch.nan, reward)
        known = (~ordinary).sum(0) > 0
        mean = torch.where(known, events.nanmean(0), self.mean)
        deviation = (events - mean).square().nanmean(0).sqrt()
        deviation = torch.maximum(deviation, 1e-3 * mean.abs() + 1e-8)
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
        drawn = torch.logit(target.mean(0), eps=1e-3)
        happens = binary_cross_entropy_with_logits(ratio + drawn, target)
        miss = ((self.mean + self.std * size - reward) / self.std).square() * target
        return happens + miss.sum() / target.sum().clamp(min=1)
