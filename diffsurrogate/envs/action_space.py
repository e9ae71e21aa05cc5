"""Action bounds: clamping, normalisation and validation."""

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import straight_through_one_hot


def clamp_to_box(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp actions to the box; the gradient is zero where they were outside."""
    return torch.minimum(torch.maximum(action, low), high)


class ActionSpace(nn.Module):
    """The action box of all agents; discrete actions are one-hot rows in [0, 1]."""

    low: Tensor
    high: Tensor
    bias: Tensor
    scale: Tensor
    valid: Tensor | None
    """(agent, act_dim) bool, False where an agent's action is padding; None without padding."""

    def __init__(
        self, low: Tensor, high: Tensor, *, discrete: bool = False, valid: Tensor | None = None
    ) -> None:
        """Store the bounds (agent, act_dim); those of discrete actions are 0 and 1.

        Args:
            low: smallest actions.
            high: largest actions.
            discrete: actions are one-hot rows.
            valid: (agent, act_dim) bool, False where an agent's action is padding; None if none is.
        """
        super().__init__()
        self.discrete = discrete
        padded = valid is not None and not bool(valid.all())
        self.register_buffer("valid", valid if padded else None, persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("bias", (low + high) / 2, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)

    def executed(self, action: Tensor) -> Tensor:
        """Return the actions a simulator executes (*batch, agent, act_dim), differentiable.

        Continuous actions are clamped (zero gradient outside the bounds); discrete ones become
        one-hot, with the straight-through gradient. Padding is the middle of its bounds.
        """
        if self.discrete:
            return straight_through_one_hot(action, action)
        clamped = clamp_to_box(action, self.low, self.high)
        return clamped if self.valid is None else clamped.where(self.valid, self.bias)

    @property
    def free(self) -> Tensor:
        """(agent, act_dim) bool: no padding, and with bounds that differ."""
        free = self.scale > 0
        return free if self.valid is None else free & self.valid

    def normalise(self, action: Tensor, agents: slice = slice(None)) -> Tensor:
        """Map actions from their bounds to [-1, 1], for some of the agents."""
        scale = self.scale[agents]
        return (action - self.bias[agents]) / torch.where(scale > 0, scale, 1.0)

    def denormalise(self, action: Tensor, agents: slice = slice(None)) -> Tensor:
        """Map normalised actions to the env's units."""
        return self.bias[agents] + self.scale[agents] * action


def expect_action(action: object, shape: tuple[int, ...]) -> None:
    """Refuse anything but a finite float32 tensor of `shape`, (env, agent, act_dim)."""
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
