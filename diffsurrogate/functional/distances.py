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


def gaussian_jensen_shannon_distance(
    mean: Float[Tensor, "*b act"],
    std: Float[Tensor, "*b act"],
    other_mean: Float[Tensor, "*b act"],
    other_std: Float[Tensor, "*b act"],
    noise: Float[Tensor, "sample act"],
) -> Float[Tensor, "*b"]:
    r"""Estimate the Jensen-Shannon distance of diagonal Gaussians, in [0, 1].

    The divergence has no closed form; it is the mean of $\log_2 \frac{2 p}{p + q}$ over samples of
    $p$, and likewise of $q$, which are $\mu + \sigma \epsilon$ for each row $\epsilon$ of `noise`.
    A squashing that both have in common does not change it.
    """

    def divergence(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        sample = a.unsqueeze(-2) + b.unsqueeze(-2) * noise
        own = (-0.5 * noise.square() - b.unsqueeze(-2).log()).sum(-1)
        away = (sample - c.unsqueeze(-2)) / d.unsqueeze(-2)
        other = (-0.5 * away.square() - d.unsqueeze(-2).log()).sum(-1)
        return (own - torch.logaddexp(own, other)).mean(-1) / math.log(2) + 1

    one = divergence(mean, std, other_mean, other_std)
    return ((one + divergence(other_mean, other_std, mean, std)) / 2).clamp(0, 1).sqrt()


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


def gaussian_jensen_shannon_diversity(
    mean: Float[Tensor, "*b agent act"],
    std: Float[Tensor, "*b agent act"],
    noise: Float[Tensor, "sample act"],
) -> Float[Tensor, ""]:
    """Return the mean Jensen-Shannon distance between agents' Gaussians (HyperMARL, appendix A).

    Args:
        mean: by agent, on the same observation; at least 2 agents.
        std: likewise.
        noise: standard normal, for samples of all of them.
    """
    (mean, other_mean), (std, other_std) = _pairs(mean), _pairs(std)
    distance = gaussian_jensen_shannon_distance(mean, std, other_mean, other_std, noise)
    return distance.mean()


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second agent's rows of every pair: (*batch, pair, feature)."""
    one, other = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    return x[..., one, :], x[..., other, :]
