"""Networks over agents: joint MLP, separate MLPs, shared MLP with a pooled context, Transformer.

All map `(*batch, agent, in_dim)` to `(*batch, agent, out_dim)`.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.configuration import require_choices
from diffsurrogate.errors import UsageError

Activation = Literal["elu", "relu", "silu", "tanh"]
Architecture = Literal["joint", "separate", "shared", "transformer"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Shape of a network over agents."""

    architecture: Architecture = "joint"
    """joint: one MLP over all agents concatenated. separate: an MLP of its own for every agent,
    which sees that agent's features only. shared: one MLP per agent, same weights, which also sees
    the mean of a small embedding of all. transformer: self-attention over agents. The last two do
    not depend on the order or number of agents."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers; the Transformer's width is the first and its depth the count."""
    activation: Activation = "elu"
    """Between layers."""
    layer_norm: bool = True
    """LayerNorm after each activation (arXiv:2204.07137, A.2.2)."""
    embed: tuple[int, ...] = ()
    """Widths of hidden layers between an agent's features and the Transformer's width; empty for a
    linear embedding (the paper)."""
    heads: int = 1
    """Attention heads of the Transformer."""
    context: bool = True
    """Let the shared MLP of an agent see the mean over all; False for its own features only."""

    def __post_init__(self) -> None:
        require_choices(self)
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden is {self.hidden}; give at least one width of at least 1")
        if self.embed and (min(self.embed) < 1 or self.architecture != "transformer"):
            raise UsageError(
                f"embed is {self.embed}; give widths of at least 1, to a Transformer only"
            )
        if self.heads < 1:
            raise UsageError(f"heads is {self.heads}; it must be at least 1")
        if self.architecture == "transformer" and self.hidden[0] % self.heads:
            raise UsageError(f"width {self.hidden[0]} cannot be split over {self.heads} heads")


def mlp(sizes: tuple[int, ...], config: NetConfig) -> nn.Sequential:
    """Linear, activation, LayerNorm for each hidden layer; a last Linear without them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[config.activation]()]
        if config.layer_norm:
            layers.append(nn.LayerNorm(fan_out))
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class JointNet(nn.Module):
    """One MLP over all agents concatenated: sees everything, is bound to their number and order."""

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build for `agents` agents of `in_dim` features each."""
        super().__init__()
        self.out_shape = (agents, out_dim)
        self.net = mlp((agents * in_dim, *config.hidden, agents * out_dim), config)
        self.head = self.net[-1]

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map features of all agents at once."""
        out: Tensor = self.net(x.flatten(-2))
        return out.unflatten(-1, self.out_shape)


class AgentLinear(nn.Module):
    """A linear layer with weights of its own for every agent, in one batched product."""

    def __init__(self, agents: int, in_dim: int, out_dim: int) -> None:
        """Draw every agent's weights as torch draws those of one layer."""
        super().__init__()
        layers = [nn.Linear(in_dim, out_dim) for _ in range(agents)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features by its own weights."""
        flat = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
        out = torch.baddbmm(self.bias.unsqueeze(1), flat, self.weight.transpose(1, 2))
        return out.transpose(0, 1).reshape(*x.shape[:-1], out.shape[-1])


class SeparateNet(nn.Module):
    """An MLP of its own for every agent, which sees that agent's features only."""

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build as many networks as agents."""
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise((in_dim, *config.hidden)):
            layers += [AgentLinear(agents, fan_in, fan_out), _ACTIVATIONS[config.activation]()]
            if config.layer_norm:
                layers.append(nn.LayerNorm(fan_out, elementwise_affine=False))
        self.head = AgentLinear(agents, config.hidden[-1], out_dim)
        self.net = nn.Sequential(*layers, self.head)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features."""
        out: Tensor = self.net(x)
        return out


class SharedNet(nn.Module):
    """The same MLP for every agent, fed with the agent's own features and a pooled context.

    The context is the mean over agents of a linear embedding (deep sets, arXiv:1703.06114), so the
    output of agent i may depend on the others without depending on their order.
    """

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; `agents` only decides whether there is anything to pool."""
        super().__init__()
        width = max(config.hidden[0] // 4, 8)
        self.pool: nn.Module | None = None
        if config.context and agents > 1:
            self.pool = nn.Sequential(
                nn.Linear(in_dim, width), _ACTIVATIONS[config.activation](), nn.LayerNorm(width)
            )
        pooled = 0 if self.pool is None else width
        self.net = mlp((in_dim + pooled, *config.hidden, out_dim), config)
        self.head = self.net[-1]
        if self.pool is not None:
            first = self.net[0]
            assert isinstance(first, nn.Linear)
            with torch.no_grad():
                first.weight[:, in_dim:] = 0.0  # the others matter only once that is learned

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features, given the mean of all."""
        if self.pool is not None:
            context = self.pool(x).mean(-2, keepdim=True)
            x = torch.cat([x, context.expand(*x.shape[:-1], -1)], dim=-1)
        out: Tensor = self.net(x)
        return out


class TransformerNet(nn.Module):
    """Self-attention over agents, without positions: permutation-equivariant (SHAC++, B.2)."""

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; the number of agents is free."""
        super().__init__()
        width = config.hidden[0]
        self.embed = mlp((in_dim, *config.embed, width), config)
        self.embed.append(nn.LayerNorm(width))
        self.blocks = nn.ModuleList(
            _AgentBlock(width, config.heads, config.activation) for _ in config.hidden
        )
        self.head = nn.Linear(width, out_dim)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features, attending to all."""
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.head(hidden)
        return out


class _AgentBlock(nn.Module):
    """Pre-norm attention and a feed-forward layer of twice the width."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            _ACTIVATIONS[activation](),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        # (*batch, agent, 3 * width) -> (3, *batch, head, agent, width / heads)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        weight = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.merge((weight @ value).transpose(-3, -2).flatten(-2))
        out: Tensor = x + self.feedforward(x)
        return out


AgentNet = JointNet | SeparateNet | SharedNet | TransformerNet


def build_net(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, *, head_gain: float = 1.0
) -> AgentNet:
    """Build the configured network; its last layer is orthogonal with `head_gain`, bias zero.

    A gain of 0 makes a new network answer 0 everywhere.
    """
    kinds: dict[str, type[AgentNet]] = {
        "joint": JointNet,
        "separate": SeparateNet,
        "shared": SharedNet,
        "transformer": TransformerNet,
    }
    net = kinds[config.architecture](config, agents, in_dim, out_dim)
    head = net.head
    assert isinstance(head, nn.Linear | AgentLinear)
    matrices = head.weight if head.weight.ndim == 3 else head.weight.unsqueeze(0)
    for matrix in matrices:
        if head_gain == 0:
            nn.init.zeros_(matrix)
        else:
            nn.init.orthogonal_(matrix, head_gain)
    nn.init.zeros_(head.bias)
    return net
