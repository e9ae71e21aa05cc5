"""Which values are ordinary, and which rare ones a regression must not be bent by."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_KEPT = 4096
"""Newest values from which the range is estimated."""


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
        some = values[:: max(1, len(values) // (_KEPT // 8))].to(self.newest)
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
