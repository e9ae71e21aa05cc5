"""Networks over agents: joint, separate, shared and generated MLPs, DiCo, Transformer.

All map `(*batch, agent, in_dim)` to `(*batch, agent, out_dim)`. Those with memory also need to know
what came before (`diffsurrogate.recurrent`).
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.agent_attention import AgentBlock
from diffsurrogate.agent_linear import AgentLinear, agent_linear, reset_orthogonal
from diffsurrogate.agent_views import CentralNet, NumberedNet, numbered
from diffsurrogate.configuration import require_choices, require_range
from diffsurrogate.dico import DiCoNet
from diffsurrogate.errors import UsageError
from diffsurrogate.hypernets import GeneratedLinear, one_hot_identity, orthogonal_identity
from diffsurrogate.recurrent import AgentGRU, BuildLinear, RecurrentNet

Activation = Literal["elu", "relu", "silu", "tanh"]
Architecture = Literal[
    "joint", "separate", "shared", "transformer", "hyper-linear", "hyper-mlp", "dico"
]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_SEE_THEMSELVES = ("separate", "shared", "hyper-linear", "hyper-mlp")
"""Architectures that can be shown all agents instead."""
_ONLY_OF = {"identity_size": "hyper-mlp", "hyper_hidden": "hyper-mlp", "diversity": "dico"}
"""Options of one architecture."""


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Shape of a network over agents."""

    architecture: Architecture = "joint"
    """joint: one MLP over all agents concatenated. separate: an MLP of its own for every agent,
    which sees that agent's features only. shared: one MLP per agent, same weights, which also sees
    the mean of a small embedding of all. transformer: self-attention over agents. hyper-linear and
    hyper-mlp: as separate, but all weights are generated from the agent's identity alone, by a
    linear map of its number or by an MLP of a learned embedding (HyperMARL, arXiv:2412.04233).
    dico: of policies over an action box only, a shared MLP plus a separate one, scaled to a given
    diversity (arXiv:2405.15054). Only shared and transformer do not depend on the order or number
    of agents."""
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
    agent_id: bool = False
    """Let the shared MLP of an agent, or the Transformer, see its number, one-hot: then order and
    number matter. Without, agents that see the same, as where they stand in one place, do the same
    and never part."""
    central: bool = False
    """Let the separate, shared or generated MLP of an agent see the features of all agents,
    concatenated: for a critic that knows more than the policy does."""
    identity_size: int = 4
    """Features of the learned embedding of an agent (hyper-mlp)."""
    hyper_hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers between that embedding and the weights (hyper-mlp)."""
    diversity: float | None = 1.2
    """Mean distance between two agents' mean actions on the same observation, in half boxes (dico);
    0 for none, None for whatever is learned. 1.2 is what the paper's two agents had on VMAS's
    Navigation."""
    memory: int = 0
    """Features that agents remember from step to step; 0 for none. In front of the network then
    stand a layer and a GRU of that width, of policies and critics of PPO, IPPO and MAPPO only: each
    agent's own in joint and separate networks, the same for all in shared and generated ones, where
    only what reads the memory is generated (HyperMARL, section 5.4)."""

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
        if self.agent_id and self.architecture not in ("shared", "transformer"):
            raise UsageError(
                "agent_id numbers the agents of a shared network or a Transformer, not of a "
                f"{self.architecture} one; leave it False"
            )
        if self.central and self.architecture not in _SEE_THEMSELVES:
            raise UsageError(
                f"central is for {', '.join(_SEE_THEMSELVES)}; a {self.architecture} network "
                "cannot use it, leave it False"
            )
        if self.identity_size < 1 or min(self.hyper_hidden, default=0) < 1:
            raise UsageError(
                f"identity_size is {self.identity_size} and hyper_hidden {self.hyper_hidden}; both "
                "need widths of at least 1 (hyper-linear is the one without hidden layers)"
            )
        if self.diversity is not None:
            require_range(self, "diversity", low=0.0)
        if self.memory < 0 or (self.memory > 0 and self.architecture in ("transformer", "dico")):
            raise UsageError(
                f"memory is {self.memory} with architecture {self.architecture!r}; give a width of "
                f"at least 1 to joint or one of {', '.join(_SEE_THEMSELVES)}, or 0 for none"
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse options of another architecture, which would do nothing."""
        for name, architecture in _ONLY_OF.items():
            value, usual = getattr(self, name), getattr(NetConfig, name)
            if self.architecture != architecture and value != usual:
                raise UsageError(
                    f"{name} is {value}, but only a {architecture} network has one, not a "
                    f"{self.architecture} one; leave it at {usual}, or choose that architecture"
                )

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        pooled = self.architecture == "shared" and self.context
        return self.central or pooled or self.architecture in ("joint", "transformer")


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
        if config.context and agents > 1 and not config.central:
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
            context = self.pool(x).mean(-2, keepdim=True)
            x = torch.cat([x, context.expand(*x.shape[:-1], -1)], dim=-1)
        if self.agents > 0:
            x = numbered(x)
        out: Tensor = self.net(x)
        return out


class TransformerNet(nn.Module):
    """Self-attention over agents, without positions: permutation-equivariant (SHAC++, B.2).

    Unless it is told who is who.
    """

    def __init__(self, config: NetConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; the number of agents is free, if they are not numbered."""
        super().__init__()
        self.agents = agents if config.agent_id else 0
        width = config.hidden[0]
        self.embed = mlp((in_dim + self.agents, *config.embed, width), config)
        self.embed.append(nn.LayerNorm(width))
        self.blocks = nn.ModuleList(
            AgentBlock(width, config.heads, _ACTIVATIONS[config.activation]) for _ in config.hidden
        )
        self.head = nn.Linear(width, out_dim)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features, attending to all."""
        hidden = self.embed(numbered(x) if self.agents > 0 else x)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.head(hidden)
        return out


AgentNet = JointNet | SeparateNet | SharedNet | TransformerNet | HyperNet | DiCoNet | CentralNet


def build_net(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, *, head_gain: float = 1.0
) -> AgentNet:
    """Build the configured network; its last layer is orthogonal with `head_gain`, bias zero.

    A gain of 0 makes a new network answer 0 everywhere.

    Raises:
        UsageError: diversity is asked of a single agent, or of what is no policy; or memory.
    """
    if config.memory > 0:
        raise UsageError(
            f"memory is {config.memory}, but only policies and critics of PPO, IPPO and MAPPO have "
            "one; leave it at 0"
        )
    if config.architecture == "dico":
        return _diverse(config, agents, in_dim, out_dim, head_gain)
    kinds: dict[str, type[JointNet | SeparateNet | SharedNet | TransformerNet | HyperNet]] = {
        "joint": JointNet,
        "separate": SeparateNet,
        "shared": SharedNet,
        "transformer": TransformerNet,
        "hyper-linear": HyperNet,
        "hyper-mlp": HyperNet,
    }
    seen = agents * in_dim if config.central else in_dim
    net = kinds[config.architecture](config, agents, seen, out_dim)
    if isinstance(net, HyperNet):
        net.reset_head(head_gain)
    else:
        assert isinstance(net.head, nn.Linear | AgentLinear)
        reset_orthogonal(net.head.weight, head_gain)
        nn.init.zeros_(net.head.bias)
    return CentralNet(net) if config.central else net


def build_recurrent_net(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, *, head_gain: float = 1.0
) -> RecurrentNet:
    """Build the configured network with its memory; heads as of `build_net`.

    The encoder sees what the network would without a memory, but no mean over agents: that is of
    what they remember.
    """
    own = config.architecture in ("joint", "separate")
    linear: BuildLinear = partial(AgentLinear, agents) if own else nn.Linear
    seen = (agents * in_dim if config.central else in_dim) + (agents if config.agent_id else 0)
    first = linear(seen, config.memory)
    reset_orthogonal(first.weight, math.sqrt(2))
    nn.init.zeros_(first.bias)
    encoder: nn.Module = nn.Sequential(first, *_between(config, config.memory))
    if config.agent_id:
        encoder = NumberedNet(encoder)
    if config.central:
        encoder = CentralNet(encoder)
    context = config.context and not config.central
    reader = replace(config, memory=0, agent_id=False, central=False, context=context)
    net = build_net(reader, agents, config.memory, out_dim, head_gain=head_gain)
    return RecurrentNet(encoder, AgentGRU(linear, config.memory), net)


def _diverse(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, head_gain: float
) -> DiCoNet:
    """Build both parts of a network of controlled diversity."""
    if head_gain == 0:
        raise UsageError(
            "dico sets how differently agents act; values and models need another architecture, "
            "and policies a head_gain above 0"
        )
    if agents < 2:
        raise UsageError("dico sets how differently agents act, but there is 1; use joint")
    plain = replace(config, architecture="separate", diversity=NetConfig.diversity)
    shared, own = (
        build_net(part, agents, in_dim, out_dim, head_gain=head_gain)
        for part in (replace(plain, architecture="shared", context=False), plain)
    )
    return DiCoNet(shared, own, config.diversity, agents, in_dim)


def _between(config: NetConfig, width: int) -> list[nn.Module]:
    """Return what stands between layers of agents' own weights; its norm has none."""
    layers: list[nn.Module] = [_ACTIVATIONS[config.activation]()]
    if config.layer_norm:
        layers.append(nn.LayerNorm(width, elementwise_affine=False))
    return layers
