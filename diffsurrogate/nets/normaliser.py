"""Normalisation by running statistics, frozen while a window is collected."""

import torch
from torch import Tensor, nn


class RunningStatistics(nn.Module):
    """Running mean and standard deviation, and a frozen copy of them for normalisation.

    Features with whole values only so far (flags, one-hots, counts) are scaled down to at most 1
    but not shifted: a rarely set flag would otherwise become a spike of many standard deviations.
    Uses Chan et al.'s parallel update. `snapshot()` copies the live statistics to the frozen ones;
    a whole window must be normalised by the same snapshot, or its gradient would be wrong.
    """

    mean: Tensor
    std: Tensor
    live_mean: Tensor
    live_m2: Tensor
    count: Tensor
    fractional: Tensor
    largest: Tensor

    def __init__(self, shape: tuple[int, ...], *, floor: float = 1e-2) -> None:
        """Start at mean 0 and standard deviation 1.

        Args:
            shape: trailing axes with separate statistics.
            floor: smallest standard deviation used, so that nearly constant features stay small.
        """
        super().__init__()
        self.floor = floor
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("live_mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("live_m2", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("fractional", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("largest", torch.ones(shape))

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Update the live statistics with a batch `(*any, *shape)`."""
        rows = batch.reshape(-1, *self.shape).double()
        if len(rows) == 0:
            return
        self.fractional = self.fractional | (rows != rows.round()).any(0)
        self.largest = torch.maximum(self.largest, rows.abs().amax(0).to(self.largest.dtype))
        mean = rows.mean(0)
        m2 = (rows - mean).square().sum(0)
        total = self.count + len(rows)
        delta = mean - self.live_mean
        self.live_mean = self.live_mean + delta * len(rows) / total
        self.live_m2 = self.live_m2 + m2 + delta.square() * self.count * len(rows) / total
        self.count = total

    @torch.no_grad()
    def snapshot(self) -> None:
        """Copy the live statistics to the frozen ones."""
        if float(self.count) == 0:
            return
        mean = self.live_mean.to(self.mean.dtype)
        deviation = (self.live_m2 / self.count).sqrt().to(self.std.dtype)
        self.mean = torch.where(self.fractional, mean, 0.0)
        self.std = torch.where(self.fractional, deviation.clamp(min=self.floor), self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(*any, *shape)` with the frozen statistics."""
        return (x - self.mean) / self.std
