"""Linear layers with weights of their own for every agent, in one batched product."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def agent_linear(
    x: Float[Tensor, "*b agent i"],
    weight: Float[Tensor, "agent o i"],
    bias: Float[Tensor, "agent o"],
) -> Float[Tensor, "*b agent o"]:
    """Map each agent's features by its own weights."""
    flat = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
    out = torch.baddbmm(bias.unsqueeze(1), flat, weight.transpose(1, 2))
    return out.transpose(0, 1).reshape(*x.shape[:-1], out.shape[-1])


class AgentLinear(nn.Module):
    """A linear layer with weights of its own for every agent."""

    def __init__(self, agents: int, in_dim: int, out_dim: int) -> None:
        """Draw every agent's weights as torch draws those of one layer."""
        super().__init__()
        layers = [nn.Linear(in_dim, out_dim) for _ in range(agents)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features by its own weights."""
        return agent_linear(x, self.weight, self.bias)


@torch.no_grad()
def reset_orthogonal(
    weight: Float[Tensor, "matrix o i"] | Float[Tensor, "o i"], gain: float
) -> None:
    """Draw every matrix orthogonal with `gain`, each by itself; a gain of 0 makes all 0."""
    for matrix in weight if weight.ndim == 3 else weight.unsqueeze(0):
        if gain == 0:
            nn.init.zeros_(matrix)
        else:
            nn.init.orthogonal_(matrix, gain)
