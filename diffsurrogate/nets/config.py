"""Configuration of multi-agent networks: one class for each architecture."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.errors import UsageError

Activation = Literal["elu", "relu", "silu", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True, kw_only=True)
class BaseNetConfig:
    """What every architecture has."""

    same_for_all: ClassVar[bool] = False
    """Whether all agents have the same weights, and so the same normalisation."""
    apart: ClassVar[bool] = False
    """Whether each agent has weights of its own, and acts on its own features."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers. Transformer: width (the first) and depth (their number)."""
    activation: Activation = "elu"
    """Activation function of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation (arXiv:2204.07137, A.2.2)."""

    def __post_init__(self) -> None:
        require_choices(self)
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden is {self.hidden}; give at least one width of at least 1")

    @property
    def gru_size(self) -> int:
        """0: no architecture is recurrent but those that have it as an option."""
        return 0

    @property
    def centralised(self) -> bool:
        """False: an option of those in which an agent sees its own features otherwise."""
        return False

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        return self.centralised


@dataclass(frozen=True, kw_only=True)
class _RecurrentNetConfig(BaseNetConfig):
    """Of an architecture that may be recurrent."""

    gru_size: int = 0
    """Size of the hidden state of a GRU in front of the network; 0 for a feed-forward network. Only
    for policies and critics of SHAC, PPO, IPPO and MAPPO. Joint and separate networks have one GRU
    per agent; shared, hyper-linear and hyper-mlp ones share it (HyperMARL, section 5.4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "gru_size", low=0.0)


@dataclass(frozen=True, kw_only=True)
class JointNetConfig(_RecurrentNetConfig):
    """One MLP over all agents, concatenated."""

    architecture: Literal["joint"] = field(default="joint", init=False)

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        return True


@dataclass(frozen=True, kw_only=True)
class _OwnFeaturesConfig(_RecurrentNetConfig):
    """Of an architecture in which an agent sees its own features, unless `centralised`."""

    centralised: bool = False
    """Use the concatenated features of all agents for each agent, as for a centralised critic."""


@dataclass(frozen=True, kw_only=True)
class SeparateNetConfig(_OwnFeaturesConfig):
    """One MLP per agent, over that agent's features."""

    apart = True
    architecture: Literal["separate"] = field(default="separate", init=False)


@dataclass(frozen=True, kw_only=True)
class SharedNetConfig(_OwnFeaturesConfig):
    """One MLP with the same weights for all agents, independent of their order and number."""

    same_for_all = True
    architecture: Literal["shared"] = field(default="shared", init=False)
    pool_others: bool = True
    """Append the mean of a small embedding of all agents to an agent's features."""
    agent_id: bool = False
    """Append an agent's one-hot id to its features, if there are several. Without it, agents with
    equal observations act alike; with it, the order and number of agents are fixed."""

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        return self.centralised or self.pool_others


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(BaseNetConfig):
    """Self-attention over agents, independent of their order and number."""

    same_for_all = True
    architecture: Literal["transformer"] = field(default="transformer", init=False)
    embed: tuple[int, ...] = ()
    """Widths of the hidden layers that embed an agent's features; empty for a linear embedding (the
    paper)."""
    heads: int = 1
    """Attention heads; must divide the width."""
    agent_id: bool = False
    """Append an agent's one-hot id to its features, if there are several. Without it, agents with
    equal observations act alike; with it, the order and number of agents are fixed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "heads", low=1.0)
        if self.embed and min(self.embed) < 1:
            raise UsageError(f"embed is {self.embed}; give widths of at least 1")
        if self.hidden[0] % self.heads:
            raise UsageError(f"width {self.hidden[0]} cannot be split into {self.heads} heads")

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        return True


@dataclass(frozen=True, kw_only=True)
class HyperLinearConfig(_OwnFeaturesConfig):
    """One MLP per agent, its weights a linear map of the agent's one-hot id (HyperMARL)."""

    apart = True
    architecture: Literal["hyper-linear"] = field(default="hyper-linear", init=False)


@dataclass(frozen=True, kw_only=True)
class HyperMLPConfig(_OwnFeaturesConfig):
    """One MLP per agent, its weights by an MLP from a learned embedding (HyperMARL)."""

    apart = True
    architecture: Literal["hyper-mlp"] = field(default="hyper-mlp", init=False)
    identity_size: int = 4
    """Size of an agent's learned embedding."""
    hyper_hidden: tuple[int, ...] = (64,)
    """Widths of the hypernetwork's hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "identity_size", low=1.0)
        if min(self.hyper_hidden, default=0) < 1:
            raise UsageError(
                f"hyper_hidden is {self.hyper_hidden}; give at least one width of at least 1 "
                "(hyper-linear is the one without hidden layers)"
            )


@dataclass(frozen=True, kw_only=True)
class DiCoConfig(BaseNetConfig):
    """A shared plus a separate MLP, scaled to a given diversity (DiCo, arXiv:2405.15054).

    For policies with continuous actions.
    """

    same_for_all = True
    architecture: Literal["dico"] = field(default="dico", init=False)
    diversity: float | None = 1.2
    """Mean distance between two agents' mean actions on the same observation, in normalised
    actions, at least 0; None leaves it free. The paper uses 1.2 for two agents on VMAS's
    Navigation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.diversity is not None:
            require_range(self, "diversity", low=0.0)


NetConfig = (
    JointNetConfig
    | SeparateNetConfig
    | SharedNetConfig
    | TransformerConfig
    | HyperLinearConfig
    | HyperMLPConfig
    | DiCoConfig
)
NET_CONFIGS: dict[str, type[NetConfig]] = {
    "joint": JointNetConfig,
    "separate": SeparateNetConfig,
    "shared": SharedNetConfig,
    "transformer": TransformerConfig,
    "hyper-linear": HyperLinearConfig,
    "hyper-mlp": HyperMLPConfig,
    "dico": DiCoConfig,
}
"""By architecture."""
