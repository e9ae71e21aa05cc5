r"""Weights generated from the identity of an agent: HyperMARL (arXiv:2412.04233).

Agent i's weights are $\theta_i = h_\psi(e_i)$: a function of its identity $e_i$ alone, which no
observation enters. The gradient is $\nabla_\psi = \sum_i J_i^\top Z_i$ (its equation 15), with
$J_i = \partial h_\psi(e_i) / \partial \psi$ free of observations and $Z_i$ the gradient that agent
i's own network would have.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.agent_linear import reset_orthogonal

_GAIN = math.sqrt(2)
"""Orthogonal gain of layers before a ReLU, and of learned identities."""


def one_hot_identity(agents: int) -> Float[Tensor, "agent agent"]:
    """Return one-hot identities: a linear hypernetwork gives every agent weights of its own."""
    return torch.eye(agents)


def orthogonal_identity(agents: int, size: int) -> Float[Tensor, "agent size"]:
    """Draw identities of length √2, orthogonal as far as `size` allows."""
    identity = nn.init.orthogonal_(torch.empty(agents, size))
    return _GAIN * identity / identity.norm(dim=-1, keepdim=True).clamp(min=1e-6)


class GeneratedLinear(nn.Module):
    """Generates one linear layer for every agent from its identity.

    Weights and biases have a network each, identity → `hidden` with ReLU → all entries; without
    hidden layers both are linear (equation 9 of arXiv:2412.04233).
    """

    def __init__(
        self, identity_size: int, hidden: tuple[int, ...], in_dim: int, out_dim: int
    ) -> None:
        """Build; `reset` draws what it generates at first."""
        super().__init__()
        self.shape = (out_dim, in_dim)
        sizes = (identity_size, *hidden)
        self.weight_features = _features(sizes)
        self.weight_head = nn.Linear(sizes[-1], out_dim * in_dim)
        self.bias_features = _features(sizes)
        self.bias_head = nn.Linear(sizes[-1], out_dim)

    @torch.no_grad()
    def reset(self, identity: Float[Tensor, "agent size"], gain: float) -> None:
        """Let every agent begin like an ordinary orthogonal layer of that gain, with no bias.

        Each feature of the identity weighs an orthogonal matrix drawn by itself (section 4.5 of
        the paper). These are divided by the mean norm of the features: otherwise a sum over many
        of them would be larger than the matrix it stands for.
        """
        norm = self.weight_features(identity).square().sum(-1).mean().sqrt()
        matrices = torch.empty(self.weight_head.in_features, *self.shape)
        reset_orthogonal(matrices, gain / max(float(norm), 1e-6))
        self.weight_head.weight.copy_(matrices.flatten(1).T)
        for part in (self.weight_head.bias, self.bias_head.weight, self.bias_head.bias):
            nn.init.zeros_(part)

    def forward(
        self, identity: Float[Tensor, "agent size"]
    ) -> tuple[Float[Tensor, "agent o i"], Float[Tensor, "agent o"]]:
        """Return weights and biases."""
        weight: Tensor = self.weight_head(self.weight_features(identity))
        bias: Tensor = self.bias_head(self.bias_features(identity))
        return weight.unflatten(-1, self.shape), bias


def _features(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear and ReLU for each hidden layer, orthogonal; nothing without hidden layers."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        reset_orthogonal(linear.weight, _GAIN)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)
