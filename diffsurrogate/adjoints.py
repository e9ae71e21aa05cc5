"""Gradients that grow along a chain of steps, kept to the size that most envs' have.

The gradient of all that follows with respect to a state (the adjoint of that state) is a product of
Jacobians. Where it explodes in some envs, these alone decide where the mean over envs points
(Metz et al., 2021, arXiv:2111.05803).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def limited(
    gradient: Float[Tensor, "*time env agent obs_dim"], times: float
) -> Float[Tensor, "*time env agent obs_dim"]:
    """Return gradients cut, step by step, to `times` the median norm of all envs that have one."""
    norm = gradient.flatten(-2).norm(dim=-1)
    some = norm > 0
    limit = times * norm.where(some, torch.nan).nanmedian(dim=-1, keepdim=True).values
    return gradient * (limit / norm).clamp(max=1.0).where(some, 1.0)[..., None, None]


def limit_adjoint(state: Tensor, times: float | None) -> Tensor:
    """Return states (*time, env, agent, obs_dim) with their gradient `limited`, None without."""
    if times is not None and state.requires_grad:
        state.register_hook(lambda gradient: limited(gradient, times))
    return state
