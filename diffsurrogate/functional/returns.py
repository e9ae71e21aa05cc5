"""Value targets as pure functions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def td_lambda(
    reward: Float[Tensor, "time env agent"],
    next_value: Float[Tensor, "time env agent"],
    terminated: Bool[Tensor, "time env"],
    truncated: Bool[Tensor, "time env"],
    *,
    gamma: float,
    lam: float,
    continue_prob: Float[Tensor, "time env"] | None = None,
) -> Float[Tensor, "time env agent"]:
    r"""TD(λ) targets of a window (Sutton & Barto, ch. 12; arXiv:2204.07137, eq. 6-7).

    $G_t = r_t + \gamma [(1-\lambda) V_{t+1} + \lambda G_{t+1}]$, and $r_t + \gamma V_{t+1}$ where
    the window ends or the episode was cut: `next_value[t]` is the value of `Window.next_obs[t]`,
    the observation before any reset. A terminated step has no future at all. λ = 0 is one-step
    TD, λ = 1 the discounted sum; both are regular points. Differentiable.

    `continue_prob` is $1 - $`terminated` in value and may carry the gradient of a termination
    model; it weighs everything that comes after the step.
    """
    ended = (terminated | truncated).unsqueeze(-1)
    if continue_prob is None:
        continue_prob = torch.ones_like(reward)
        next_value = torch.where(terminated.unsqueeze(-1), 0.0, next_value)
    else:
        continue_prob = continue_prob.unsqueeze(-1)
    targets: list[Tensor] = []
    following = next_value[-1]
    for t in range(len(reward) - 1, -1, -1):
        blended = (1 - lam) * next_value[t] + lam * following
        future = torch.where(ended[t], next_value[t], blended)
        following = reward[t] + gamma * continue_prob[t] * future
        targets.append(following)
    return torch.stack(targets[::-1])
