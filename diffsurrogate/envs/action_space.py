"""What every env does with an action outside of its box, and what it refuses as one."""

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError


def clamp_to_box(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the action inside the box; the gradient is zero where it was outside."""
    return torch.minimum(torch.maximum(action, low), high)


def expect_action(action: object, shape: tuple[int, ...]) -> None:
    """Refuse what is not a finite float32 tensor of `shape`, (env, agent, act_dim)."""
    if not isinstance(action, Tensor):
        raise UsageError(
            f"action is a {type(action).__name__}; a float torch.Tensor of shape {shape} is "
            "needed (torch.as_tensor converts NumPy arrays)"
        )
    if tuple(action.shape) != shape:
        raise UsageError(
            f"action has shape {tuple(action.shape)}; (env, agent, act_dim) = {shape} is needed"
        )
    if action.dtype != torch.float32:
        raise UsageError(
            f"action has dtype {action.dtype}; torch.float32 is needed (action.float())"
        )
    if not bool(torch.isfinite(action).all()):
        where = (~torch.isfinite(action)).nonzero()[0].tolist()
        raise UsageError(
            f"action is not finite at [env, agent, feature] = {where}; check the policy's "
            "output and its gradient norm"
        )
