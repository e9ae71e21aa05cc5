"""Multi-agent MLPs: joint, separate and shared; agent ids; centralised inputs."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.nets.config import _ACTIVATIONS, BaseNetConfig, JointNetConfig, SharedNetConfig


def agent_linear(
    x: Float[Tensor, "*b agent i"],
    weight: Float[Tensor, "agent o i"],
    bias: Float[Tensor, "agent o"],
) -> Float[Tensor, "*b agent o"]:
    """Map each agent's features by its own weights."""
    flat = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
    out = torch.baddbmm(bias.unsqueeze(1), flat, weight.transpose(1, 2))
    return out.transpose(0, 1).reshape(*x.shape[:-1], out.shape[-1])


def only_row(values: Float[Tensor, "agent *any"], agent: int) -> Float[Tensor, "agent *any"]:
    """Return one agent's values, with zeros for the others."""
    kept = torch.zeros_like(values)
    kept[agent] = values[agent]
    return kept


class AgentLinear(nn.Module):
    """A linear layer with separate weights for every agent."""

    def __init__(self, agents: int, in_dim: int, out_dim: int) -> None:
        """Initialise every agent's weights as `nn.Linear` does."""
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
    """Initialise every matrix orthogonal with `gain`, or all with zeros if it is 0."""
    for matrix in weight if weight.ndim == 3 else weight.unsqueeze(0):
        if gain == 0:
            nn.init.zeros_(matrix)
        else:
            nn.init.orthogonal_(matrix, gain)


def mlp(sizes: tuple[int, ...], config: BaseNetConfig) -> nn.Sequential:
    """Return Linear, activation and LayerNorm for each hidden layer, and a final Linear."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[config.activation]()]
        if config.layer_norm:
            layers.append(nn.LayerNorm(fan_out))
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class JointNet(nn.Module):
    """One MLP over all agents, concatenated; depends on their number and order."""

    def __init__(self, config: JointNetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build for `agents` agents with `in_dim` features each."""
        super().__init__()
        self.out_shape = (agents, out_dim)
        self.net = mlp((agents * in_dim, *config.hidden, agents * out_dim), config)
        self.head = self.net[-1]

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map the features of all agents at once."""
        out: Tensor = self.net(x.flatten(-2))
        return out.unflatten(-1, self.out_shape)


class SeparateNet(nn.Module):
    """A separate MLP for every agent, over that agent's features only."""

    def __init__(self, config: BaseNetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build one network per agent."""
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
    """One MLP shared by all agents, over an agent's features and a pooled embedding of all agents.

    The embedding is averaged over agents (deep sets, arXiv:1703.06114), so the output of agent i
    depends on the others but not on their order.
    """

    def __init__(self, config: SharedNetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; a single agent has nothing to pool."""
        super().__init__()
        self.agents = agents if config.agent_id and agents > 1 else 0
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
            with torch.no_grad():  # initially independent of the other agents
                first.weight[:, in_dim : in_dim + pooled] = 0.0

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features and the mean embedding of all."""
        if self.pool is not None:
            pool_others = self.pool(x).mean(-2, keepdim=True)
            x = torch.cat([x, pool_others.expand(*x.shape[:-1], -1)], dim=-1)
        if self.agents > 0:
            x = append_agent_id(x)
        out: Tensor = self.net(x)
        return out


def _between(config: BaseNetConfig, width: int) -> list[nn.Module]:
    """Return activation and LayerNorm after a layer with separate weights per agent."""
    layers: list[nn.Module] = [_ACTIVATIONS[config.activation]()]
    if config.layer_norm:
        layers.append(nn.LayerNorm(width, elementwise_affine=False))
    return layers


def append_agent_id(x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
    """Append each agent's one-hot id."""
    number = torch.eye(x.shape[-2], device=x.device, dtype=x.dtype)
    return torch.cat([x, number.expand(*x.shape[:-1], -1)], dim=-1)


class AgentIDNet(nn.Module):
    """Appends each agent's one-hot id to its features."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network with `in_dim + agents` input features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features and id."""
        out: Tensor = self.net(append_agent_id(x))
        return out


class CentralisedNet(nn.Module):
    """Gives a network the concatenated features of all agents, for each agent."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network with `agents * in_dim` input features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map all agents' features, once for each agent."""
        everything = x.flatten(-2).unsqueeze(-2)
        out: Tensor = self.net(everything.expand(*x.shape[:-1], -1))
        return out
