"""Statistics of values: normalisation, frozen while a window is collected, and ordinary ranges.

In data-parallel training all are those of all ranks together.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffsurrogate.distributed import (
    any_over_ranks,
    max_over_ranks,
    merged_moments,
    min_over_ranks,
    rows_of_ranks,
    share,
)

MANY = 16
"""Different whole numbers above which a feature is a measurement, not a flag or a category."""
_SLOTS, _HASH = 64, -7046029254386353131  # 64 slots by Fibonacci hashing
_ROWS = 1024
"""Rows of a batch in which different whole numbers are counted."""
RESOLUTION = 2.5e-7
"""Deviations below this share of the mean are float32's rounding: the feature is constant."""
_IN_CACHE = 65_536
"""Values that are summed at a time."""
SMALLEST = 1e-12
"""Deviations below this are rounding as well, of values that should be 0."""
LIMIT = 10.0
"""Largest normalised value, in standard deviations."""
CHANGE_FLOOR = 0.005
"""Smallest scale of a feature's change, in the feature's standard deviations."""
_KEPT = 4096
"""Newest values from which an ordinary range is estimated."""
HIDDEN, VISIBLE = 0.1, 0.2
"""Agents part when one's deviation falls below the first share of the common one, and join again
above the second."""


class ValuesSeen(nn.Module):
    """Tells measurements from flags, one-hots and categories, by the values seen so far.

    A feature is a measurement once it has taken a fractional value, or more than `MANY` different
    whole numbers (encoders, pixels, ticks).
    """

    fractional: Tensor
    slots: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Start with flags only."""
        super().__init__()
        self.register_buffer("fractional", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("slots", torch.zeros(*shape, _SLOTS, dtype=torch.bool))

    @property
    def measurement(self) -> Tensor:
        """Whether each feature is a measurement: bool."""
        return self.fractional | (self.slots.sum(-1) > MANY)

    @torch.no_grad()
    def update(self, rows: Tensor, features: Tensor) -> None:
        """Look at values that are no measurements so far; those that are not finite do not count.

        Args:
            rows: (row, feature), of these features only.
            features: (*shape) bool, with as many True.
        """
        fraction = (rows != rows.round()) & rows.isfinite()
        self.fractional[features] |= any_over_ranks(fraction.any(0))
        some = rows[:: max(1, len(rows) // _ROWS)]
        slot = ((some.round().long() * _HASH) >> 58) & (_SLOTS - 1)  # the top six bits
        slot = slot.where(some.isfinite(), _SLOTS)  # one more, which is left out
        found = torch.zeros(rows.shape[1], _SLOTS + 1, dtype=torch.bool, device=rows.device)
        self.slots[features] |= any_over_ranks(found.scatter(1, slot.T, True)[:, :_SLOTS])


class OrdinaryRange(nn.Module):
    """The range of ordinary values, from quantiles of the newest ones.

    Where the outer quantiles are equal, all values are ordinary: there is no slope to protect.
    """

    newest: Tensor
    added: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, columns: int, *, tail: float = 0.1, spreads: float = 3.0) -> None:
        """Start with every value ordinary.

        Args:
            columns: ranges to keep.
            tail: share of values beyond the outer quantile on either side.
            spreads: how far beyond the outer quantiles values are ordinary, in distances of these;
                by default that is 9 standard deviations from the mean of normal values.
        """
        super().__init__()
        self.tail, self.spreads = tail, spreads
        self.register_buffer("newest", torch.zeros(_KEPT, columns))
        self.register_buffer("added", torch.zeros((), dtype=torch.long))
        self.register_buffer("low", torch.full((columns,), -torch.inf))
        self.register_buffer("high", torch.full((columns,), torch.inf))

    @torch.no_grad()
    def update(self, values: Float[Tensor, "item column"]) -> None:
        """Add values, evenly spaced ones of a large batch, and estimate the range anew."""
        some = values[:: max(1, len(values) // share(_KEPT // 8))].to(self.newest)
        some = rows_of_ranks(some)
        slot = (torch.arange(len(some), device=some.device) + self.added) % _KEPT
        self.newest[slot] = some
        self.added += len(some)
        levels = torch.tensor([self.tail, 1 - self.tail], device=some.device, dtype=some.dtype)
        lower, upper = self.newest[: int(self.added)].quantile(levels, dim=0)
        spread = torch.where(upper > lower, self.spreads * (upper - lower), torch.inf)
        self.low, self.high = lower - spread, upper + spread

    @property
    def dense(self) -> Tensor:
        """(column,) bool: values differ in more than a few."""
        return self.high.isfinite()

    def holds(self, values: Float[Tensor, "*b column"]) -> Bool[Tensor, "*b column"]:
        """Return which values are ordinary."""
        return (values >= self.low) & (values <= self.high)


class RunningStatistics(nn.Module):
    """Running mean and standard deviation, and a frozen copy of them for normalisation.

    Flags, one-hots and categories (`ValuesSeen`) are scaled to at most 1 but shifted only by an
    offset they never leave: a rarely set flag would otherwise become a spike of many standard
    deviations. Normalised values are clamped to ±`LIMIT`. Uses Chan et al.'s parallel update.
    `snapshot()` copies the live statistics to the frozen ones; a whole window must be normalised by
    the same snapshot, or its gradient would be wrong.

    Statistics are of every agent by itself unless `shared`, for networks with the same weights for
    all agents: there a feature's statistics are those of all agents together, so that equal
    observations stay equal, as long as each agent's values can be told apart by them (`HIDDEN`).
    """

    mean: Tensor
    std: Tensor
    measurement: Tensor
    live_mean: Tensor
    live_m2: Tensor
    count: Tensor
    lowest: Tensor
    highest: Tensor
    apart: Tensor
    leaves: Tensor
    present: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        shared: bool = False,
        flags: bool = True,
        limit: float = LIMIT,
    ) -> None:
        """Start at mean 0 and standard deviation 1.

        Args:
            shape: trailing axes with separate statistics, (agent, obs_dim) for observations.
            shared: agents, the first axis, share statistics where that hides nothing.
            flags: treat flags as above; False takes every feature for a measurement.
            limit: largest normalised value.
        """
        super().__init__()
        self.shape, self.shared, self.flags, self.limit = shape, shared, flags, limit
        self.values = ValuesSeen(shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("measurement", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("live_mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("live_m2", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("lowest", torch.full(shape, torch.inf, dtype=torch.float64))
        self.register_buffer("highest", torch.full(shape, -torch.inf, dtype=torch.float64))
        self.register_buffer("apart", torch.zeros(shape[1:], dtype=torch.bool))
        self.register_buffer("leaves", torch.zeros((), dtype=torch.bool))
        self.register_buffer("present", torch.ones(shape, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def update(self, batch: Tensor, counts: Tensor | None = None) -> None:
        """Update the live statistics with a batch `(*any, *shape)`.

        Padding and values that are not finite are left out.

        Args:
            batch: observations or other values.
            counts: (*any, shape[0]) bool, such as which agents are alive; None if all count. Where
                agents leave, rows of zeros are normalised to zeros.
        """
        rows = batch.reshape(-1, *self.shape)
        if len(rows) == 0:
            return
        valid = self._valid(rows, counts)
        self.leaves = any_over_ranks(self.leaves)
        size = torch.full_like(self.count, len(rows)) if valid is None else valid.sum(0).double()
        mean = _sum(rows, valid, lambda part: part) / size.clamp(min=1)
        m2 = _sum(rows, valid, lambda part: (part - mean).square())
        size, mean, m2 = merged_moments(size, mean, m2)
        if self.flags:
            self._update_flags(rows, valid)
        total = (self.count + size).clamp(min=1)
        delta = mean - self.live_mean
        self.live_mean = self.live_mean + delta * size / total
        self.live_m2 = self.live_m2 + m2 + delta.square() * self.count * size / total
        self.count = self.count + size

    def _valid(self, rows: Tensor, counts: Tensor | None) -> Tensor | None:
        """Return which values of rows `(row, *shape)` count; None if all do."""
        valid = None
        if not bool(self.present.all()):
            valid = self.present.expand_as(rows)
        if not bool(rows.sum().isfinite()):
            valid = rows.isfinite() if valid is None else rows.isfinite() & valid
        if counts is not None and not bool(counts.all()):
            counts = counts.reshape(-1, *self.shape[:1])
            counts = counts.reshape(*counts.shape, *[1] * (len(self.shape) - 1))
            valid = counts.expand_as(rows) if valid is None else counts & valid
            self.leaves = torch.ones_like(self.leaves)
        return valid

    def _update_flags(self, rows: Tensor, valid: Tensor | None) -> None:
        """Look at the features which have not been measurements so far."""
        unsure = ~self.values.measurement
        if not bool(unsure.any()):
            return
        rows = rows[:, unsure]
        valid = None if valid is None else valid[:, unsure]
        self.values.update(_filled(rows, valid, torch.nan), unsure)
        lowest, highest = (_filled(rows, valid, s * torch.inf) for s in (1, -1))
        lowest, highest = min_over_ranks(lowest.amin(0)), max_over_ranks(highest.amax(0))
        self.lowest[unsure] = torch.minimum(self.lowest[unsure], lowest)
        self.highest[unsure] = torch.maximum(self.highest[unsure], highest)

    @torch.no_grad()
    def snapshot(self) -> None:
        """Copy the live statistics to the frozen ones."""
        if not bool(self.count.any()):
            return
        mean, square = self.live_mean, self.live_m2 / self.count.clamp(min=1)
        lowest, highest, known = self.lowest, self.highest, self.count > 0
        measurement = self.values.measurement if self.flags else torch.ones_like(self.measurement)
        if self.shared:
            together, spread, alone = self._common(mean, square)
            mean, square = mean.where(alone, together), square.where(alone, spread)
            lowest = lowest.where(alone, lowest.amin(0))
            highest = highest.where(alone, highest.amax(0))
            measurement = measurement.where(alone, measurement.any(0))
            known = known.any(0).expand_as(known)
        deviation = scale_or_size(square.sqrt(), mean)
        nearest = lowest.clamp(min=0) + highest.clamp(max=0)  # to zero: an offset never left
        span = (highest - lowest).clamp(min=1.0)
        known = known & self.present
        self.measurement = measurement
        mean = torch.where(measurement, mean, nearest).where(known, 0.0)
        self.mean = mean.to(self.mean.dtype)
        std = torch.where(measurement, deviation, span).where(known, 1.0)
        self.std = std.to(self.std.dtype)

    def _common(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and variance of all agents together, and where agents keep their own.

        They do so for features by which an agent's moves would hardly be seen in common units.
        """
        weight = self.count / self.count.sum(0).clamp(min=1)
        together = (weight * mean).sum(0)
        spread = (weight * (square + (mean - together).square())).sum(0)
        share = (square / spread.clamp(min=SMALLEST**2)).sqrt()
        moves = square.sqrt() > _rounding(mean)
        least = share.where(moves, torch.inf).amin(0)
        self.apart = least < torch.where(self.apart, VISIBLE, HIDDEN)
        return together, spread, self.apart & (self.count > 0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(*any, *shape)` with the frozen statistics."""
        out = ((x - self.mean) / self.std).clamp(-self.limit, self.limit)
        if len(self.shape) < 2 or not (_cannot_look(self.leaves) or bool(self.leaves)):
            return out
        gone = self.leaves & (x == 0).all(-1, keepdim=True)
        return out.masked_fill(gone, 0.0)


def scale_of_change(change: RunningStatistics, obs: RunningStatistics) -> Tensor:
    """Return the unit of changes: their deviation, at least `CHANGE_FLOOR` of the feature's."""
    return torch.maximum(change.std, CHANGE_FLOOR * obs.std)


def mark_padding(module: nn.Module, mask: Tensor) -> None:
    """Leave padding out of all statistics of a module; `mask` (agent, obs_dim) is False there."""
    for part in module.modules():
        if isinstance(part, RunningStatistics) and part.shape == mask.shape:
            part.present.copy_(mask)


def scale_or_size(deviation: Tensor, mean: Tensor) -> Tensor:
    """Return deviations, and for constant features their size or 1, whichever is larger."""
    return torch.where(deviation > _rounding(mean), deviation, mean.abs().clamp(min=1.0))


def _cannot_look(flag: Tensor) -> bool:
    """Return whether a flag's value would stall the GPU, or is not known while exporting."""
    return flag.is_cuda or torch.compiler.is_exporting()


def _filled(rows: Tensor, valid: Tensor | None, value: float) -> Tensor:
    return rows if valid is None else rows.masked_fill(~valid, value)


def _sum(rows: Tensor, valid: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sum over rows of a function of the valid ones, in double precision.

    A part after the other, each small enough for the processor's cache: 4 times as fast.
    """
    size = max(1, _IN_CACHE // max(1, rows[0].numel()))
    total = torch.zeros_like(rows[0], dtype=torch.float64)
    for start in range(0, len(rows), size):
        part = function(rows[start : start + size].double())
        total += _filled(part, None if valid is None else valid[start : start + size], 0.0).sum(0)
    return total


def _rounding(mean: Tensor) -> Tensor:
    """Return the largest deviation that may be nothing but rounding."""
    return RESOLUTION * mean.abs() + SMALLEST
