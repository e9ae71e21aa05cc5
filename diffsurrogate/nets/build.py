"""Builds the network that a configuration describes."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from diffsurrogate.config import changed_to
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import (
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.nets.dico import DiCoNet
from diffsurrogate.nets.hypernet import HyperNet
from diffsurrogate.nets.mlp import (
    AgentIDNet,
    AgentLinear,
    CentralisedNet,
    JointNet,
    SeparateNet,
    SharedNet,
    _between,
    reset_orthogonal,
)
from diffsurrogate.nets.recurrent import AgentGRU, BuildLinear, RecurrentNet
from diffsurrogate.nets.transformer import TransformerNet

AgentNet = JointNet | SeparateNet | SharedNet | TransformerNet | HyperNet | DiCoNet | CentralisedNet


def build_net(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, *, head_gain: float = 1.0
) -> AgentNet:
    """Build the configured network; its last layer is orthogonal with `head_gain`, bias zero.

    With a gain of 0, a new network outputs 0 everywhere.

    Raises:
        UsageError: `gru_size` is set; or dico with a single agent or a `head_gain` of 0.
    """
    if config.gru_size > 0:
        raise UsageError(
            f"gru_size is {config.gru_size}, but only policies and critics of SHAC, PPO, IPPO and "
            "MAPPO are recurrent; leave it at 0"
        )
    if isinstance(config, DiCoConfig):
        return _diverse(config, agents, in_dim, out_dim, head_gain)
    seen = agents * in_dim if config.centralised else in_dim
    net = _plain(config, agents, seen, out_dim)
    if isinstance(net, HyperNet):
        net.reset_head(head_gain)
    else:
        assert isinstance(net.head, nn.Linear | AgentLinear)
        reset_orthogonal(net.head.weight, head_gain)
        nn.init.zeros_(net.head.bias)
    return CentralisedNet(net) if config.centralised else net


def _plain(
    config: NetConfig, agents: int, in_dim: int, out_dim: int
) -> JointNet | SeparateNet | SharedNet | TransformerNet | HyperNet:
    """Build the class of the architecture, but for DiCo's parts."""
    sizes = (agents, in_dim, out_dim)
    match config:
        case JointNetConfig():
            return JointNet(config, *sizes)
        case SharedNetConfig():
            return SharedNet(config, *sizes)
        case TransformerConfig():
            return TransformerNet(config, *sizes)
        case HyperLinearConfig() | HyperMLPConfig():
            return HyperNet(config, *sizes)
        case _:
            return SeparateNet(config, *sizes)


def build_recurrent_net(
    config: NetConfig, agents: int, in_dim: int, out_dim: int, *, head_gain: float = 1.0
) -> RecurrentNet:
    """Build the configured recurrent network; heads as in `build_net`.

    The encoder gets the inputs of the non-recurrent network, but no mean over agents: with
    `pool_others`, the mean is over hidden states.
    """
    own = isinstance(config, JointNetConfig | SeparateNetConfig)
    agent_id = isinstance(config, SharedNetConfig) and config.agent_id and agents > 1
    linear: BuildLinear = partial(AgentLinear, agents) if own else nn.Linear
    seen = (agents * in_dim if config.centralised else in_dim) + (agents if agent_id else 0)
    first = linear(seen, config.gru_size)
    reset_orthogonal(first.weight, math.sqrt(2))
    nn.init.zeros_(first.bias)
    encoder: nn.Module = nn.Sequential(first, *_between(config, config.gru_size))
    if agent_id:
        encoder = AgentIDNet(encoder)
    if config.centralised:
        encoder = CentralisedNet(encoder)
    plain: dict[str, Any] = {"gru_size": 0}
    if not isinstance(config, JointNetConfig):
        plain["centralised"] = False
    if isinstance(config, SharedNetConfig):
        plain["agent_id"] = False
        plain["pool_others"] = config.pool_others and not config.centralised
    net = build_net(replace(config, **plain), agents, config.gru_size, out_dim, head_gain=head_gain)
    return RecurrentNet(encoder, AgentGRU(linear, config.gru_size), net)


def _diverse(
    config: DiCoConfig, agents: int, in_dim: int, out_dim: int, head_gain: float
) -> DiCoNet:
    """Build the shared and the individual part of a `DiCoNet`."""
    if head_gain == 0:
        raise UsageError(
            "dico controls how differently agents act; values and models need another "
            "architecture, and policies a head_gain above 0"
        )
    if agents < 2:
        raise UsageError("dico controls how differently agents act, but there is 1; use joint")
    parts = (
        changed_to(SharedNetConfig, config, pool_others=False),
        changed_to(SeparateNetConfig, config),
    )
    shared, own = (build_net(p, agents, in_dim, out_dim, head_gain=head_gain) for p in parts)
    return DiCoNet(shared, own, config.diversity, agents, in_dim)
