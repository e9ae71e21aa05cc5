"""MLPs over agents: joint, separate and shared; agent ids; centralised ones."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.nets.config import _ACTIVATIONS, NetConfig


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


class SeparateNet(nn.Module):
    """An MLP of its own for every agent, which sees that agent's features only."""

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build as many networks as agents."""
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise((in_dim, *config.hidden)):
            layers += [AgentLinear(agents, fan_in, fan_out), *_between(config, fan_out)]
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
        """Build; `agents` decides whether there is anything to pool, and how many numbers."""
        super().__init__()
        self.agents = agents if config.agent_id else 0
        width = max(config.hidden[0] // 4, 8)
        self.pool: nn.Module | None = None
        if config.pool_others and agents > 1 and not config.centralised:
            self.pool = nn.Sequential(
                nn.Linear(in_dim, width), _ACTIVATIONS[config.activation](), nn.LayerNorm(width)
            )
        pooled = 0 if self.pool is None else width
        self.net = mlp((in_dim + pooled + self.agents, *config.hidden, out_dim), config)
        self.head = self.net[-1]
        if self.pool is not None:
            first = self.net[0]
            assert isinstance(first, nn.Linear)
            with torch.no_grad():  # the others matter only once that is learned
                first.weight[:, in_dim : in_dim + pooled] = 0.0

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features, given the mean of all."""
        if self.pool is not None:
            pool_others = self.pool(x).mean(-2, keepdim=True)
            x = torch.cat([x, pool_others.expand(*x.shape[:-1], -1)], dim=-1)
        if self.agents > 0:
            x = append_agent_id(x)
        out: Tensor = self.net(x)
        return out


def _between(config: NetConfig, width: int) -> list[nn.Module]:
    """Return what stands between layers of agents' own weights; its norm has none."""
    layers: list[nn.Module] = [_ACTIVATIONS[config.activation]()]
    if config.layer_norm:
        layers.append(nn.LayerNorm(width, elementwise_affine=False))
    return layers


def append_agent_id(x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
    """Append each agent's number, one-hot."""
    number = torch.eye(x.shape[-2], device=x.device, dtype=x.dtype)
    return torch.cat([x, number.expand(*x.shape[:-1], -1)], dim=-1)


class AgentIDNet(nn.Module):
    """Shows every agent its number."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network of `in_dim + agents` features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features and number."""
        out: Tensor = self.net(append_agent_id(x))
        return out


class CentralisedNet(nn.Module):
    """Shows the features of all agents, concatenated, to each agent's part of a network."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network of `agents * in_dim` features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map all features for each agent."""
        everything = x.flatten(-2).unsqueeze(-2)
        out: Tensor = self.net(everything.expand(*x.shape[:-1], -1))
        return out
