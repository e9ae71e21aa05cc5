"""The one place that picks the class of a network."""

import math
from dataclasses import replace
from functools import partial

from torch import nn

from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.dico import DiCoNet
from diffsurrogate.nets.hypernet import HyperNet
from diffsurrogate.nets.mlp import (
    AgentLinear,
    CentralNet,
    JointNet,
    NumberedNet,
    SeparateNet,
    SharedNet,
    _between,
    reset_orthogonal,
)
from diffsurrogate.nets.recurrent import AgentGRU, BuildLinear, RecurrentNet
from diffsurrogate.nets.transformer import TransformerNet

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
