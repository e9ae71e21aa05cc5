"""What may pass a gradient, and how much of it."""

import torch
from jaxtyping import Float
from torch import Tensor


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` going forward and the gradient of `surrogate` going back."""
    return value.detach() + (surrogate - surrogate.detach())  # this order keeps `value` exact


def clip_to_median_norm(
    gradient: Float[Tensor, "*time env agent obs_dim"], times: float
) -> Float[Tensor, "*time env agent obs_dim"]:
    """Return gradients cut, step by step, to `times` the median norm of all envs that have one."""
    norm = gradient.flatten(-2).norm(dim=-1)
    some = norm > 0
    limit = times * norm.where(some, torch.nan).nanmedian(dim=-1, keepdim=True).values
    return gradient * (limit / norm).clamp(max=1.0).where(some, 1.0)[..., None, None]


def clip_adjoint(state: Tensor, times: float | None) -> Tensor:
    """Return states (*time, env, agent, obs_dim) with their gradient clipped; None for no limit."""
    if times is not None and state.requires_grad:
        state.register_hook(lambda gradient: clip_to_median_norm(gradient, times))
    return state
