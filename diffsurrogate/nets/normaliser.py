"""Running statistics, with a snapshot that stays still while a window is collected."""

import torch
from torch import Tensor, nn


class RunningStatistics(nn.Module):
    """Mean and standard deviation of a stream, and a frozen copy of them to normalise with.

    Entries that only took whole numbers so far (flags, one-hots, counts) are scaled down to at most
    1 but not shifted: a flag that is rarely set would otherwise become a spike of many deviations.
    Chan et al.'s parallel update. `snapshot()` copies the live statistics to the frozen ones; a
    window must be normalised by one and the same snapshot, or its gradient would be of a function
    that changed under way.
    """

    mean: Tensor
    std: Tensor
    live_mean: Tensor
    live_m2: Tensor
    count: Tensor
    fractional: Tensor
    largest: Tensor

    def __init__(self, shape: tuple[int, ...], *, floor: float = 1e-2) -> None:
        """Start at mean 0 and deviation 1.

        Args:
            shape: trailing axes that keep their own statistics.
            floor: smallest standard deviation used; entries that hardly move are not blown up.
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
        """Take in a batch `(*any, *shape)`; the frozen statistics do not move."""
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
        """Freeze the live statistics for use."""
        if float(self.count) == 0:
            return
        mean = self.live_mean.to(self.mean.dtype)
        deviation = (self.live_m2 / self.count).sqrt().to(self.std.dtype)
        self.mean = torch.where(self.fractional, mean, 0.0)
        self.std = torch.where(self.fractional, deviation.clamp(min=self.floor), self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(*any, *shape)` with the snapshot."""
        return (x - self.mean) / self.std
