"""Parts of a window, each of which can be differentiated by itself."""

from collections.abc import Iterator
from dataclasses import fields, replace

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
    tensors = {f.name: getattr(window, f.name) for f in fields(window)}
    pieces = {name: cut(value, length) for name, value in tensors.items() if value is not None}
    noise = cut(noise, length)
    order = torch.randperm(noise.shape[1], generator=generator).to(noise.device)
    for chosen in order.chunk(count):
        part = {name: value[:, chosen] for name, value in pieces.items()}
        yield replace(window, **part), noise[:, chosen]
