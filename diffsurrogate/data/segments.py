"""Parts of windows: trajectories between resets, segments of equal length, minibatches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsurrogate.distributed import as_many
from diffsurrogate.envs.window import Window, cut
from diffsurrogate.errors import UsageError


@dataclass(frozen=True)
class Segments:
    """The trajectories of a window between resets, each padded to the window's horizon."""

    start: Tensor
    """(segment,) index of the first step."""
    env: Tensor
    """(segment,) index of the env."""
    valid: Tensor
    """(segment, time) bool: False is padding."""
    number: Tensor
    """(time, env) index of the segment a step belongs to."""

    def __len__(self) -> int:
        """Return the number of segments, at least one per env."""
        return len(self.start)

    @staticmethod
    def of(window: Window) -> "Segments":
        """Split a window after every step that ended an episode."""
        ended = window.ended
        horizon, num_envs = ended.shape
        opens = torch.ones_like(ended)
        opens[1:] = ended[:-1]
        env, start = opens.transpose(0, 1).nonzero(as_tuple=True)
        number = opens.transpose(0, 1).flatten().cumsum(0).reshape(num_envs, horizon) - 1
        number = number.transpose(0, 1)
        length = torch.bincount(number.flatten(), minlength=len(start))
        valid = torch.arange(horizon, device=ended.device) < length.unsqueeze(-1)
        return Segments(start=start, env=env, valid=valid, number=number)

    def first(self, values: Tensor) -> Tensor:
        """Return each segment's first row of `values` (time, env, ...): (segment, ...)."""
        return values[self.start, self.env]

    def gather(self, values: Tensor) -> Tensor:
        """Return `values` (time, env, ...) as (segment, time, ...); padding repeats a later row."""
        horizon = len(values)
        step = torch.arange(horizon, device=values.device) + self.start.unsqueeze(-1)
        return values[step.clamp(max=horizon - 1), self.env.unsqueeze(-1)]

    def scatter(self, values: Tensor) -> Tensor:
        """Return `values` (segment, time, ...) as (time, env, ...); the inverse of `gather`."""
        horizon = self.number.shape[0]
        step = torch.arange(horizon, device=values.device).unsqueeze(-1)
        return values[self.number, step - self.start[self.number]]


def padded(values: Tensor, length: int) -> Tensor:
    """Pad (segment, time, ...) with zeros to `length` steps.

    Raises:
        UsageError: there are more steps than that.
    """
    if values.shape[1] > length:
        raise UsageError(
            f"a window has {values.shape[1]} steps, but the world model reaches only {length}; "
            "shorten the windows, or raise awm.max_horizon"
        )
    rest = values.new_zeros(values.shape[0], length - values.shape[1], *values.shape[2:])
    return torch.cat([values, rest], dim=1)


def minibatches(
    window: Window,
    noise: Tensor,
    *,
    length: int,
    count: int,
    generator: torch.Generator,
) -> Iterator[tuple[Window, Tensor]]:
    """Yield `count` random minibatches of a window's segments, each with its actions' noise.

    Args:
        window: without a graph.
        noise: (time, env, agent, act_dim).
        length: steps of a segment; divides the window's horizon.
        count: number of minibatches, with about the same number of segments each.
        generator: on the CPU, shuffles the segments.
    """
    segments, noise = window.segments(length), cut(noise, length)
    order = torch.randperm(noise.shape[1], generator=generator).to(noise.device)
    for chosen in as_many(order.chunk(count)):
        yield segments.chosen(chosen), noise[:, chosen]
