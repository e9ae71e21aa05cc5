r"""Distances between action distributions, and the diversity of agents' policies.

System Neural Diversity (Bettini et al., arXiv:2305.02128) is the mean, over pairs of agents and
over observations, of the distance between two agents' action distributions:
$\mathrm{SND} = \frac{2}{n (n-1) |O|} \sum_{i<j} \sum_{o \in O} D(\pi_i(o), \pi_j(o))$.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def jensen_shannon_distance(
    p: Float[Tensor, "*b act_dim"], q: Float[Tensor, "*b act_dim"]
) -> Float[Tensor, "*b"]:
    r"""Return $\sqrt{H(\frac{p + q}{2}) - \frac{H(p) + H(q)}{2}}$ in bits, hence in [0, 1].

    The distance, not the divergence, which is its square (Endres & Schindelin, 2003).
    """
    p, q = p.double(), q.double()  # nearly equal entropies cancel

    def entropy(x: Tensor) -> Tensor:
        return torch.special.entr(x).sum(-1) / math.log(2)

    divergence = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return divergence.clamp(0, 1).sqrt().float()


def wasserstein_distance(
    mean: Float[Tensor, "*b act"],
    std: Float[Tensor, "*b act"],
    other_mean: Float[Tensor, "*b act"],
    other_std: Float[Tensor, "*b act"],
) -> Float[Tensor, "*b"]:
    r"""Return $\sqrt{|\mu - \mu'|^2 + |\sigma - \sigma'|^2}$: W2 of diagonal Gaussians."""
    return ((mean - other_mean).square() + (std - other_std).square()).sum(-1).sqrt()


def choices_diversity(probability: Float[Tensor, "*b agent act_dim"]) -> Float[Tensor, ""]:
    """Return the mean Jensen-Shannon distance between agents (HyperMARL, section 5.1.4).

    Args:
        probability: of every discrete action, by agent, on the same observation; at least 2 agents.
    """
    one, other = _pairs(probability)
    return jensen_shannon_distance(one, other).mean()


def gaussian_diversity(
    mean: Float[Tensor, "*b agent act"], std: Float[Tensor, "*b agent act"]
) -> Float[Tensor, ""]:
    """Return the mean Wasserstein distance between agents' Gaussians (arXiv:2305.02128).

    Args:
        mean: by agent, on the same observation; at least 2 agents.
        std: likewise.
    """
    (mean, other_mean), (std, other_std) = _pairs(mean), _pairs(std)
    return wasserstein_distance(mean, std, other_mean, other_std).mean()


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second agent's rows of every pair: (*batch, pair, feature)."""
    one, other = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    return x[..., one, :], x[..., other, :]
