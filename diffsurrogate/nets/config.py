"""Shapes of networks over agents."""

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
    pool_others: bool = True
    """Let the shared MLP of an agent see the mean over all; False for its own features only."""
    agent_id: bool = False
    """Let the shared MLP of an agent, or the Transformer, see its number, one-hot: then order and
    number matter. Without, agents that see the same, as where they stand in one place, do the same
    and never part."""
    centralised: bool = False
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
    gru_size: int = 0
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
                f"width of at least 1 to joint or one of {', '.join(_SEE_THEMSELVES)}, or 0 for "
                "none"
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
        pooled = self.architecture == "shared" and self.pool_others
        return self.centralised or pooled or self.architecture in ("joint", "transformer")
