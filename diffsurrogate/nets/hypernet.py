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

from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.mlp import _between, agent_linear, reset_orthogonal

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


class HyperNet(nn.Module):
    """The layers of a `SeparateNet`, all weights of which are generated from agents' identities.

    They are generated once per call, whatever the number of samples (arXiv:2412.04233, equations 9
    and 10). Actor and critic have each their own embeddings.
    """

    identity: Tensor
    """(agent, size) one-hot or learned."""

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; every agent starts as an ordinary network, orthogonal with gain √2, bias zero."""
        super().__init__()
        if config.architecture == "hyper-linear":
            self.register_buffer("identity", one_hot_identity(agents), persistent=False)
            hidden: tuple[int, ...] = ()
        else:
            self.identity = nn.Parameter(orthogonal_identity(agents, config.identity_size))
            hidden = config.hyper_hidden
        sizes = (in_dim, *config.hidden, out_dim)
        layers = [
            GeneratedLinear(self.identity.shape[-1], hidden, fan_in, fan_out)
            for fan_in, fan_out in itertools.pairwise(sizes)
        ]
        for layer in layers:
            layer.reset(self.identity, math.sqrt(2))
        self.layers = nn.ModuleList(layers)
        self.between = nn.ModuleList(
            nn.Sequential(*_between(config, width)) for width in config.hidden
        )

    def generate(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (agent, out, in) and bias (agent, out) of each layer."""
        return [layer(self.identity) for layer in self.layers]

    def reset_head(self, gain: float) -> None:
        """Let the last layer start orthogonal with `gain`."""
        head = self.layers[-1]
        assert isinstance(head, GeneratedLinear)
        head.reset(self.identity, gain)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features."""
        *hidden, head = self.generate()
        for (weight, bias), between in zip(hidden, self.between, strict=True):
            x = between(agent_linear(x, weight, bias))
        return agent_linear(x, *head)
