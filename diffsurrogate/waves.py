"""Sines and cosines that let a small network see fine differences (arXiv:2006.10739)."""

import torch
from jaxtyping import Float
from torch import Tensor


def with_waves(x: Float[Tensor, "*b i"], octaves: int) -> Float[Tensor, "*b o"]:
    """Append sine and cosine of each feature at 1, 2, 4, ... radians per unit (`octaves` many)."""
    if octaves == 0:
        return x
    angle = torch.cat([2.0**octave * x for octave in range(octaves)], dim=-1)
    return torch.cat([x, angle.sin(), angle.cos()], dim=-1)


def with_waves_dim(dim: int, octaves: int) -> int:
    """Return how many features `with_waves` makes of `dim`."""
    return dim * (1 + 2 * octaves)
