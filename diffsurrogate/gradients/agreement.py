"""Policy gradients of windows, and how well two of them agree."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window, WindowPolicy


def policy_gradient(
    env: MultiAgentVectorEnv,
    policy: WindowPolicy,
    horizon: int,
    loss: Callable[[Window], Tensor],
    weights: list[Tensor],
) -> Tensor:
    """Return the gradient `(weight,)` of a loss of the env's next window, 0 where none arrives."""
    value = loss(env.rollout(policy, horizon))
    if not value.requires_grad:  # the simulator's reward is a constant
        return torch.cat([torch.zeros_like(w).flatten() for w in weights])
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    pairs = zip(grads, weights, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])


def agreement(learned: Tensor, true: Tensor) -> dict[str, float]:
    """Return gradient_cosine and gradient_norm_ratio (learned over true).

    The cosine with a gradient that vanishes is 0, the ratio to it infinite or NaN.
    """
    return {
        "gradient_cosine": float(torch.cosine_similarity(learned, true, dim=0)),
        "gradient_norm_ratio": float(learned.norm() / true.norm()),
    }
