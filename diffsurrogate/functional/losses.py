"""Returns and losses of SHAC, PPO and BPPO as pure functions."""

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
    the window ends or the episode is truncated: `next_value[t]` is the value of
    `Window.next_obs[t]`, the observation before any reset. A terminated step is worth $r_t$ alone.
    λ = 0 is one-step TD, λ = 1 the discounted sum. Differentiable.

    `continue_prob` equals $1 - $`terminated` and may carry the gradient of a termination model; it
    multiplies everything after the step.
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


def shac_actor_loss(
    reward: Float[Tensor, "time env agent"],
    next_value: Float[Tensor, "time env agent"],
    terminated: Bool[Tensor, "time env"],
    truncated: Bool[Tensor, "time env"],
    *,
    gamma: float,
    continue_prob: Float[Tensor, "time env"] | None = None,
) -> Float[Tensor, ""]:
    r"""Negative return of short windows, bootstrapped where an episode is truncated or goes on.

    Equation 5 of SHAC (arXiv:2204.07137), for several agents and for episodes that end within the
    window. A segment of length h is worth $\sum_{k<h} \gamma^k r_k + \gamma^h V(s_h)$; every reset
    starts a new one. `next_value[t]` is the value at `Window.next_obs[t]`, before any reset, and
    is dropped only where `terminated`. The sum is divided by time, envs and agents.

    `continue_prob` equals $1 - $`terminated` and may carry the gradient of a termination model; it
    multiplies everything after the step.
    """
    ended = terminated | truncated
    if continue_prob is None:
        next_value = torch.where(terminated.unsqueeze(-1), 0.0, next_value)
    cut = ended.clone()
    cut[-1] = True  # the end of the window cuts every episode still running
    if continue_prob is None:
        continue_prob = (~terminated).to(reward.dtype)
    discount = torch.ones_like(continue_prob[0])
    total = reward.new_zeros(())
    for t in range(len(reward)):
        after = gamma * discount * continue_prob[t]
        total = total + (discount.unsqueeze(-1) * reward[t]).sum()
        total = total + (after * cut[t] * next_value[t].transpose(0, 1)).sum()
        discount = torch.where(ended[t], 1.0, after)
    return -total / reward.numel()


def lambda_actor_loss(
    reward: Float[Tensor, "time env agent"],
    next_value: Float[Tensor, "time env agent"],
    terminated: Bool[Tensor, "time env"],
    truncated: Bool[Tensor, "time env"],
    *,
    gamma: float,
    lam: float,
    continue_prob: Float[Tensor, "time env"] | None = None,
) -> Float[Tensor, ""]:
    r"""Negative mean TD(λ) return of all states of a window, as in Dreamer (arXiv:1912.01603).

    `shac_actor_loss` uses the value at the end of the window only. Here every state starts a
    return, so the values soon after an action contribute too, which helps where rewards are sparse.
    An action enters the returns of all states before it, with weights $(\gamma\lambda)^k$; the mean
    is divided by the sum of these weights.
    """
    returns = td_lambda(
        reward,
        next_value,
        terminated,
        truncated,
        gamma=gamma,
        lam=lam,
        continue_prob=continue_prob,
    )
    weight = sum((gamma * lam) ** k for k in range(len(reward)))
    return -returns.mean() / weight


def action_penalty(
    action: Float[Tensor, "*batch agent act_dim"],
    low: Float[Tensor, "agent act_dim"],
    high: Float[Tensor, "agent act_dim"],
) -> Float[Tensor, ""]:
    r"""Squared distance of actions from their bounds, $d(a, (l, r))$ of SHAC++, eq. 3.

    Summed over features and averaged over everything else.
    """
    outside = (low - action).clamp(min=0) + (action - high).clamp(min=0)
    return outside.square().sum(-1).mean()


def clipped_ratio_loss(
    log_prob: Float[Tensor, "*batch"],
    old_log_prob: Float[Tensor, "*batch"],
    advantage: Float[Tensor, "*batch"],
    *,
    clip_range: float,
) -> Float[Tensor, ""]:
    r"""Negative clipped objective of PPO (arXiv:1707.06347, eq. 7), averaged.

    $\min(\rho A, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A)$ with
    $\rho = \pi(a|o) / \pi_{old}(a|o)$. At equal parameters the ratio is 1, provided both densities
    are of the sampled action, before it was clamped to its bounds.
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()


def expectile_loss(
    value: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"], *, expectile: float
) -> Float[Tensor, ""]:
    r"""Mean of $2 |\tau - 1(u < 0)| u^2$ with $u$ = target - value (arXiv:2110.06169, eq. 5).

    τ = .5 is the squared error, minimised by the mean; a larger τ weights targets above the value
    more than those below.
    """
    error = target - value
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return (2 * weight * error.square()).mean()


def peer_clipped_loss(
    log_prob: Float[Tensor, "*batch"],
    old_log_prob: Float[Tensor, "*batch"],
    advantage: Float[Tensor, "*batch"],
    peer_ratio: Float[Tensor, "*batch"],
    peer_slope: Float[Tensor, "*batch act_dim"],
    action: Float[Tensor, "*batch act_dim"],
    *,
    clip_range: float,
) -> Float[Tensor, ""]:
    r"""Negative clipped objective of one agent, given its peers' updates, averaged.

    Equation 6 of BPPO,
    $\min(\rho M A + sg(\rho)\, c \cdot g\, A,\; \bar\rho M A + sg(\bar\rho)\, c \cdot g\, A)$ with
    $\rho = \pi_i / \pi_{i,old}$, $\bar\rho$ the same clipped to $1 \pm \epsilon$, the product M of
    the peers' ratios, its gradient $c = \nabla_{a_i} M$ and the reparameterised action
    $g(\theta_i, \epsilon)$. Only `log_prob` and `action` may carry a gradient. c = 0 leaves HAPPO's
    objective (arXiv:2109.11251, eq. 11), c = 0 and M = 1 leave PPO's.

    The clipped branch still passes a gradient to g: clipping bounds its weight only.
    """
    ratio = (log_prob - old_log_prob).exp()
    peer_grad = (peer_slope * action).sum(-1)

    def gain(ratio: Tensor) -> Tensor:
        return (ratio * peer_ratio + ratio.detach() * peer_grad) * advantage

    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(gain(ratio), gain(clipped)).mean()


def later_ratio(
    log_ratio: Float[Tensor, "*batch agent"], agent_order: list[int]
) -> Float[Tensor, "*batch agent"]:
    r"""Return $M_i = \prod_{j \text{ acts after } i} \rho_j$.

    Args:
        log_ratio: $\log \rho_j$ of each agent.
        agent_order: indices of the agents, in the order they act.
    """
    inverse = sorted(range(len(agent_order)), key=agent_order.__getitem__)
    ordered = log_ratio[..., agent_order]
    after = ordered.flip(-1).cumsum(-1).flip(-1) - ordered
    return after.exp()[..., inverse]
