"""Configuration of multi-agent networks."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.errors import UsageError

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
"""Architectures in which an agent sees its own features unless `centralised`."""
_ONLY_OF = {"identity_size": "hyper-mlp", "hyper_hidden": "hyper-mlp", "diversity": "dico"}
"""Options of one architecture."""


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Architecture and size of a multi-agent network."""

    architecture: Architecture = "joint"
    """joint: one MLP over all agents, concatenated. separate: one MLP per agent, over that agent's
    features. shared: one MLP with the same weights for all agents, over an agent's features and the
    mean of a small embedding of all agents'. transformer: self-attention over agents. hyper-linear,
    hyper-mlp: as separate, with weights generated from the agent's one-hot id by a linear map, or
    from a learned embedding by an MLP (HyperMARL, arXiv:2412.04233). dico: for policies with
    continuous actions, a shared plus a separate MLP, scaled to a given diversity
    (arXiv:2405.15054). Only shared and transformer are independent of the order and number of
    agents."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers. Transformer: width (the first) and depth (their number)."""
    activation: Activation = "elu"
    """Activation function of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation (arXiv:2204.07137, A.2.2)."""
    embed: tuple[int, ...] = ()
    """Widths of the hidden layers that embed an agent's features (transformer); empty for a linear
    embedding (the paper)."""
    heads: int = 1
    """Attention heads (transformer); must divide the width."""
    pool_others: bool = True
    """Append the mean embedding of all agents to an agent's features (shared)."""
    agent_id: bool = False
    """Append an agent's one-hot id to its features (shared, transformer). Without it, agents with
    equal observations act alike; with it, the order and number of agents are fixed."""
    centralised: bool = False
    """Use the concatenated features of all agents for each agent (separate, shared, hyper-linear,
    hyper-mlp), as for a centralised critic."""
    identity_size: int = 4
    """Size of an agent's learned embedding (hyper-mlp)."""
    hyper_hidden: tuple[int, ...] = (64,)
    """Widths of the hypernetwork's hidden layers (hyper-mlp)."""
    diversity: float | None = 1.2
    """Mean distance between two agents' mean actions on the same observation, in normalised actions
    (dico), at least 0; None leaves it free. The paper uses 1.2 for two agents on VMAS's
    Navigation."""
    gru_size: int = 0
    """Size of the hidden state of a GRU in front of the network; 0 for a feed-forward network. Only
    for policies and critics of PPO, IPPO and MAPPO. Joint and separate networks have one GRU per
    agent; shared, hyper-linear and hyper-mlp ones share it (HyperMARL, section 5.4)."""

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
            raise UsageError(f"width {self.hidden[0]} cannot be split into {self.heads} heads")
        if self.agent_id and self.architecture not in ("shared", "transformer"):
            raise UsageError(
                "agent_id is for shared and transformer networks, not for a "
                f"{self.architecture} one; leave it False"
            )
        if self.centralised and self.architecture not in _SEE_THEMSELVES:
            raise UsageError(
                f"centralised is for {', '.join(_SEE_THEMSELVES)}; a {self.architecture} network "
                "cannot use it, leave it False"
            )
        if self.identity_size < 1 or min(self.hyper_hidden, default=0) < 1:
            raise UsageError(
                f"identity_size is {self.identity_size} and hyper_hidden {self.hyper_hidden}; both "
                "need widths of at least 1 (hyper-linear is the one without hidden layers)"
            )
        if self.diversity is not None:
            require_range(self, "diversity", low=0.0)
        if self.gru_size < 0 or (
            self.gru_size > 0 and self.architecture in ("transformer", "dico")
        ):
            raise UsageError(
                f"gru_size is {self.gru_size} with architecture {self.architecture!r}; give a "
                f"size of at least 1 to joint, {', '.join(_SEE_THEMSELVES)}, or 0 for none"
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse options of another architecture, which would do nothing."""
        for name, architecture in _ONLY_OF.items():
            value, usual = getattr(self, name), getattr(NetConfig, name)
            if self.architecture != architecture and value != usual:
                raise UsageError(
                    f"{name} is {value}, but only a {architecture} network uses it, not a "
                    f"{self.architecture} one; leave it at {usual}, or choose that architecture"
                )

    @property
    def hears_others(self) -> bool:
        """Whether an agent's output depends on the features of other agents."""
        pooled = self.architecture == "shared" and self.pool_others
        return self.centralised or pooled or self.architecture in ("joint", "transformer")
