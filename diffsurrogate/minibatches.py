"""Parts of a window, each of which can be differentiated by itself."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffsurrogate.window import Window


def cut(values: Tensor, length: int) -> Tensor:
    """Cut (time, env, ...) into pieces of `length` steps, side by side: (length, piece, ...)."""
    return values.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)


def minibatches(
    window: Window,
    noise: Tensor,
    *,
    length: int,
    count: int,
    generator: torch.Generator,
) -> Iterator[tuple[Window, Tensor]]:
    """Yield `count` random parts of a window, each with the noise in its actions.

    Args:
        window: without a graph.
        noise: (time, env, agent, act_dim).
        length: steps of the pieces that the window is cut into first; divides its horizon.
        count: parts, of about equally many pieces.
        generator: on the CPU, of the order of pieces.
    """
    pieces, noise = window.each(lambda values: cut(values, length)), cut(noise, length)
    order = torch.randperm(noise.shape[1], generator=generator).to(noise.device)
    for chosen in order.chunk(count):
        yield _columns(pieces, chosen), noise[:, chosen]


def _columns(window: Window, chosen: Tensor) -> Window:
    return window.each(lambda values: values[:, chosen])
