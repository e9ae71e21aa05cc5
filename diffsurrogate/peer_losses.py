"""Clipped objectives that pass feedback from agent to agent (BPPO, Li et al., AAAI 2024)."""

import torch
from jaxtyping import Float
from torch import Tensor


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
    r"""Negative clipped objective of one agent, given what its peers learned, averaged.

    Equation 6 of BPPO,
    $\min(\rho M A + sg(\rho)\, c \cdot g\, A,\; \bar\rho M A + sg(\bar\rho)\, c \cdot g\, A)$ with
    $\rho = \pi_i / \pi_{i,old}$, $\bar\rho$ the same clipped to $1 \pm \epsilon$, the product M of
    the peers' ratios, its slope $c = \nabla_{a_i} M$ and the reparameterised action
    $g(\theta_i, \epsilon)$. Only `log_prob` and `action` may carry a gradient. c = 0 leaves HAPPO's
    objective (arXiv:2109.11251, eq. 11), c = 0 and M = 1 leave PPO's.

    The clipped branch still moves g: clipping bounds its weight, not its gradient.
    """
    ratio = (log_prob - old_log_prob).exp()
    pull = (peer_slope * action).sum(-1)

    def gain(ratio: Tensor) -> Tensor:
        return (ratio * peer_ratio + ratio.detach() * pull) * advantage

    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(gain(ratio), gain(clipped)).mean()


def later_ratio(
    log_ratio: Float[Tensor, "*batch agent"], acting: list[int]
) -> Float[Tensor, "*batch agent"]:
    r"""Return $M_i = \prod_{j \text{ acts after } i} \rho_j$ for agents that act as `acting` says.

    Args:
        log_ratio: $\log \rho_j$ of each agent.
        acting: their numbers, in the order they act.
    """
    inverse = sorted(range(len(acting)), key=acting.__getitem__)
    ordered = log_ratio[..., acting]
    after = ordered.flip(-1).cumsum(-1).flip(-1) - ordered
    return after.exp()[..., inverse]
