r"""Diversity control (DiCo): a shared policy plus individual parts, scaled to a given diversity.

$\mu_i(o) = \mu(o) + \frac{\mathrm{SND_{des}}}{\mathrm{SND}} \tilde\mu_i(o)$ (Bettini et al., ICML
2024, arXiv:2405.15054): whatever the individual parts $\tilde\mu_i$, the mean distance between two
agents' means stays the desired one.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffsurrogate.distributed import is_any, mean_over_ranks
from diffsurrogate.functional.distances import gaussian_diversity

_SAMPLE = 4096
"""Largest number of observations the diversity is measured on."""


class DiCoNet(nn.Module):
    """The sum of a shared network and one per agent, scaled to a given diversity.

    The diversity of the individual parts is measured on the observations last given to `measure`.
    It is constant within a window, so that only the optimiser changes the policy. Standard
    deviations are the same for all agents, so that the Wasserstein distance of two policies is the
    distance of their means.
    """

    measured: Tensor
    """() diversity of the individual parts before scaling."""
    common: Tensor | None
    """(out_dim,) bool: outputs by which agents are compared; None for all."""

    def __init__(
        self, shared: nn.Module, own: nn.Module, diversity: float | None, agents: int, in_dim: int
    ) -> None:
        """Combine two networks over (*batch, agent, in_dim), each agent seeing its own features.

        Args:
            shared: with the same weights for all agents.
            own: with separate weights for each agent.
            diversity: desired mean distance; None adds both parts unscaled.
            agents: at least 2.
            in_dim: features; the initial diversity is measured on standard normal ones.
        """
        super().__init__()
        self.shared, self.own, self.diversity = shared, own, diversity
        self.in_shape = (agents, in_dim)
        self.register_buffer("common", None, persistent=False)
        first = self._diversity_on(torch.randn(_SAMPLE, *self.in_shape))
        self.register_buffer("measured", first)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features."""
        own: Tensor = self.own(x)
        if self.diversity is not None:
            own = own * (self.diversity / self.measured.clamp(min=1e-6))
        out: Tensor = self.shared(x) + own
        return out

    def compare_only(self, common: Bool[Tensor, " o"]) -> None:
        """Compare agents by these outputs only, which all of them have."""
        self.common = common.to(self.measured.device)
        self.measured.copy_(self._diversity_on(torch.randn(_SAMPLE, *self.in_shape)))

    def measure(
        self, x: Float[Tensor, "*b agent i"], alive_mask: Bool[Tensor, "*b agent"] | None = None
    ) -> None:
        """Measure the diversity on a sample of these features, and scale by it from now on.

        Args:
            x: of all agents.
            alive_mask: the agents whose features count; None for all.
        """
        seen = x if alive_mask is None else x[alive_mask]
        if is_any(seen.numel() > 0):
            rows = seen.numel() // x.shape[-1]
            self.measured.copy_(mean_over_ranks(self._diversity_on(seen), rows))

    @torch.no_grad()
    def _diversity_on(self, x: Float[Tensor, "*row i"]) -> Tensor:
        """Return the diversity of the individual parts, all evaluated on every row of features."""
        agents, features = self.in_shape
        seen = x.reshape(-1, 1, features)
        # random, as a regular stride could hit the same agent and env every time
        chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
        mean = self.own(seen[chosen.to(x.device)].expand(-1, agents, features))
        mean = mean if self.common is None else mean[..., self.common]
        return gaussian_diversity(mean, torch.zeros_like(mean))
