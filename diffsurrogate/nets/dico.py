r"""Diversity control: a policy in common and a part of each agent's own, as far apart as told.

$\mu_i(o) = \mu(o) + \frac{\mathrm{SND_{des}}}{\mathrm{SND}} \tilde\mu_i(o)$ (Bettini et al., ICML
2024, arXiv:2405.15054): whatever the agents' own parts $\tilde\mu_i$ become, the mean distance
between two agents' means stays what was asked for.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.functional.distances import gaussian_diversity

_SAMPLE = 4096
"""Observations that the diversity is measured on, at most."""


class DiCoNet(nn.Module):
    """The sum of a shared network and one for each agent, scaled to a given diversity.

    The diversity of the agents' own parts is that on what `measure` was given last, the
    observations of a window: calls leave it as it is, so that within a window only steps of an
    optimiser move the policy. Deviations are the same for all agents, so that the Wasserstein
    distance of two policies is that of their means.
    """

    measured: Tensor
    """() diversity of the agents' own parts before scaling."""

    def __init__(
        self, shared: nn.Module, own: nn.Module, diversity: float | None, agents: int, in_dim: int
    ) -> None:
        """Combine two networks of (*batch, agent, in_dim), which see the agent's own features.

        Args:
            shared: with the same weights for all agents.
            own: with weights of its own for each.
            diversity: what the mean distance is to be; None adds both parts as they are.
            agents: at least 2.
            in_dim: features; the diversity is first measured on unit normal ones.
        """
        super().__init__()
        self.shared, self.own, self.diversity = shared, own, diversity
        first = self._diversity_on(torch.randn(_SAMPLE, agents, in_dim))
        self.register_buffer("measured", first)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features."""
        own: Tensor = self.own(x)
        if self.diversity is not None:
            own = own * (self.diversity / self.measured.clamp(min=1e-6))
        out: Tensor = self.shared(x) + own
        return out

    def measure(self, x: Float[Tensor, "*b agent i"]) -> None:
        """Scale by the diversity on these features, of which it takes a sample, from now on."""
        self.measured.copy_(self._diversity_on(x))

    @torch.no_grad()
    def _diversity_on(self, x: Tensor) -> Tensor:
        """Return the diversity of the agents' own parts where all see what any of them saw."""
        agents, features = x.shape[-2:]
        seen = x.reshape(-1, 1, features)
        # drawn, as steps of one length might meet the same agent and env again and again
        chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
        mean = self.own(seen[chosen.to(x.device)].expand(-1, agents, features))
        return gaussian_diversity(mean, torch.zeros_like(mean))
