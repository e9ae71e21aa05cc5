"""Actions: their bounds, what an env makes of them, and what it refuses as one."""

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import straight_through_one_hot


def clamp_to_box(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the action inside the box; the gradient is zero where it was outside."""
    return torch.minimum(torch.maximum(action, low), high)


class ActionSpace(nn.Module):
    """The box of all agents' actions, or the one-hot rows of discrete ones."""

    low: Tensor
    high: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, low: Tensor, high: Tensor, *, discrete: bool = False) -> None:
        """Take the bounds (agent, act_dim); those of discrete actions are 0 and 1."""
        super().__init__()
        self.discrete = discrete
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("bias", (low + high) / 2, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)

    def executed(self, action: Tensor) -> Tensor:
        """Return what a simulator makes of actions (*batch, agent, act_dim), with a gradient.

        Inside the bounds, where the gradient is zero for what was outside; or one-hot, with the
        gradient of the given numbers (straight-through).
        """
        if self.discrete:
            return straight_through_one_hot(action, action)
        return clamp_to_box(action, self.low, self.high)

    def normalise(self, action: Tensor, agents: slice = slice(None)) -> Tensor:
        """Return actions with the bounds at -1 and 1, for some of the agents."""
        return (action - self.bias[agents]) / self.scale[agents].clamp(min=1e-8)

    def denormalise(self, action: Tensor, agents: slice = slice(None)) -> Tensor:
        """Return actions in the env's units from normalised ones."""
        return self.bias[agents] + self.scale[agents] * action


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
