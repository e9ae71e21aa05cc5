r"""How noisy the policy gradient is, and whether agents pull shared weights different ways.

HyperMARL (arXiv:2412.04233) explains its results by a gradient of lower variance and by less
interference between agents. Gradients are rows of a matrix here, one per minibatch or per agent.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor


def variance_over_weights(gradient: Float[Tensor, " weight"]) -> Float[Tensor, ""]:
    """Return the variance of a gradient's entries, the paper's measure (section 5.2.3).

    It is taken at every update and averaged over the training. It depends on how many weights
    there are and on their units: compare runs of one architecture by it, not different ones.
    """
    return gradient.var(unbiased=False)


def variance_over_samples(gradients: Float[Tensor, "sample weight"]) -> Float[Tensor, ""]:
    """Return the trace of the covariance of at least 2 gradients of the same weights, unbiased."""
    return gradients.var(dim=0, unbiased=True).sum()


def noise_scale(gradients: Float[Tensor, "sample weight"]) -> Float[Tensor, ""]:
    r"""Return $\mathrm{tr} \Sigma / |\bar g|^2$ of at least 2 gradients: noise over signal.

    The simple noise scale of arXiv:1812.06162, which has no unit and can be compared between
    architectures.
    """
    return variance_over_samples(gradients) / gradients.mean(0).square().sum()


def pairwise_cosines(gradients: Float[Tensor, "agent weight"]) -> Float[Tensor, " pair"]:
    """Return the cosine of each pair i < j; below 0 one agent's step undoes the other's.

    A gradient of 0 is in nobody's way: its cosines are 0.
    """
    unit = torch.nn.functional.normalize(gradients, dim=-1)
    one, other = torch.triu_indices(len(gradients), len(gradients), 1, device=gradients.device)
    return (unit @ unit.T)[one, other]


def conflict(gradients: Float[Tensor, "agent weight"]) -> dict[str, float]:
    """Return the mean cosine of pairs of agents, and the share of pairs that conflict (below 0)."""
    cosines = pairwise_cosines(gradients)
    return {
        "agent_gradient_cosine": float(cosines.mean()),
        "agent_conflict_share": float((cosines < 0).float().mean()),
    }


def gradients_of(losses: Float[Tensor, " loss"], weights: list[Tensor]) -> Float[Tensor, "loss w"]:
    """Return the gradient of each loss with respect to all weights, 0 where none arrives."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        pairs = zip(found, weights, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])
        )
    return torch.stack(rows)


def policy_gradients(
    actor: Actor, obs: Tensor, action: Tensor, advantage: Tensor
) -> Float[Tensor, "agent weight"]:
    r"""Return each agent's part $-\nabla \frac{1}{N B} \sum_b A_{bi} \log \pi_i(a_{bi} | o_{bi})$.

    Their sum is the gradient that a first step of PPO takes, before any ratio moves.

    Args:
        actor: the policy that acted.
        obs: (*batch, agent, obs_dim).
        action: (*batch, agent, act_dim) as drawn, not clamped.
        advantage: (*batch, agent).
    """
    gain = actor.log_prob(obs, action) * advantage
    losses = -gain.flatten(0, -2).mean(0) / gain.shape[-1]
    return gradients_of(losses, [p for p in actor.parameters() if p.requires_grad])
