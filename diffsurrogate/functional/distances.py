r"""How far apart the policies of agents are: distances of distributions, and their mean over pairs.

System Neural Diversity (Bettini et al., arXiv:2305.02128) is the mean over pairs of agents and over
observations of a distance between what two agents would do on the same observation:
$\mathrm{SND} = \frac{2}{n (n-1) |O|} \sum_{i<j} \sum_{o \in O} D(\pi_i(o), \pi_j(o))$.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def jensen_shannon_distance(
    p: Float[Tensor, "*b choice"], q: Float[Tensor, "*b choice"]
) -> Float[Tensor, "*b"]:
    r"""Return $\sqrt{H(\frac{p + q}{2}) - \frac{H(p) + H(q)}{2}}$ in bits, so that 1 is the most.

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
    r"""Return $\sqrt{|\mu - \mu'|^2 + |\sigma - \sigma'|^2}$: W2 of uncorrelated Gaussians."""
    return ((mean - other_mean).square() + (std - other_std).square()).sum(-1).sqrt()


def choices_diversity(probability: Float[Tensor, "*b agent choice"]) -> Float[Tensor, ""]:
    """Return the diversity of choices, by the Jensen-Shannon distance (HyperMARL, section 5.1.4).

    Args:
        probability: of each agent's choices on the same observation. At least 2 agents.
    """
    one, other = _pairs(probability)
    return jensen_shannon_distance(one, other).mean()


def gaussian_diversity(
    mean: Float[Tensor, "*b agent act"], std: Float[Tensor, "*b agent act"]
) -> Float[Tensor, ""]:
    """Return the diversity of Gaussians, by the Wasserstein distance (arXiv:2305.02128).

    Args:
        mean: of each agent on the same observation. At least 2 agents.
        std: likewise.
    """
    (mean, other_mean), (std, other_std) = _pairs(mean), _pairs(std)
    return wasserstein_distance(mean, std, other_mean, other_std).mean()


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (*batch, pair, feature) of the first and the second agent of every pair."""
    one, other = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    return x[..., one, :], x[..., other, :]
