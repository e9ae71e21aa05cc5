"""Hyperparameters of BPPO, ARMAPPO and HAPPO."""

from dataclasses import dataclass, field
from typing import Literal

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.algorithms.ppo_config import ClipConfig, MAPPOConfig, refuse_memory
from diffsurrogate.config import require_choices
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig

_SEPARATE = NetConfig(architecture="separate", hidden=(64, 64), activation="relu", layer_norm=False)


def chained_actor(conditioning: Literal["projection", "raw", "none"]) -> ActorConfig:
    """Return agents that act as the env lists them, each with a network of its own."""
    return ActorConfig(net=_SEPARATE, learn_std=True, order="listed", conditioning=conditioning)


def whole_windows() -> ClipConfig:
    """Return the papers' steps: 5 epochs over the whole window."""
    return ClipConfig(epochs=5, batch_size=1_000_000, max_norm=10.0, lr=3e-4)


@dataclass(frozen=True, kw_only=True)
class BPPOConfig(MAPPOConfig):
    """Bidirectional PPO: agents act one after another and learn the other way round.

    Every agent has a policy of its own and advantages normalised by themselves.
    """

    actor: ActorConfig = field(default_factory=lambda: chained_actor("projection"))
    clip: ClipConfig = field(default_factory=whole_windows)
    critic_lr: float = 3e-4
    """Adam's learning rate of the value function."""
    scheme: Literal["sequential", "simultaneous"] = "sequential"
    """sequential: one agent takes all its steps on a window, then the next, which knows the ratios
    of those before. simultaneous: all take each step together."""
    turns: Literal["backward", "random"] = "backward"
    """Who learns first, in the sequential scheme only. backward: who acts last. random: drawn for
    each window."""
    compound: bool = True
    """Weigh an agent's gain by the ratios of its peers, M: those that learned before it, or, of
    simultaneous learners, those that act after it."""
    peer: bool = True
    """Add the feedback of those that act after an agent: how M changes with its action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        refuse_memory("a method of agents in turn", self.actor.net, self.critic.net)
        if self.actor.order == "together":
            raise UsageError(
                "actor.order is 'together', but these methods give every agent a policy that "
                "learns by itself; choose another order (with conditioning='none' agents do not "
                "see each other's actions)"
            )
        if self.clip.ratio != "agent":
            raise UsageError(
                f"clip.ratio is {self.clip.ratio!r}, but every agent climbs by its own ratio here; "
                "leave it at 'agent'"
            )
        if self.peer and self.actor.conditioning == "none":
            raise UsageError(
                "peer=True passes feedback through the actions that agents see, but "
                "actor.conditioning is 'none'; set peer=False, or let them see actions"
            )
        if self.scheme == "simultaneous" and self.turns != "backward":
            raise UsageError(
                f"turns={self.turns!r} says who learns first, but scheme is 'simultaneous', where "
                "all learn at once; leave turns at 'backward', or set scheme='sequential'"
            )
        if self.peer and not (self.compound and self.turns == "backward"):
            raise UsageError(
                "peer=True passes back the change of M with actions, which needs compound=True and "
                "turns='backward'; set peer=False otherwise"
            )


@dataclass(frozen=True, kw_only=True)
class ARMAPPOConfig(BPPOConfig):
    """MAPPO with an autoregressive policy: all agents learn at once, each by its own ratio."""

    scheme: Literal["sequential", "simultaneous"] = "simultaneous"
    compound: bool = False
    peer: bool = False


@dataclass(frozen=True, kw_only=True)
class HAPPOConfig(BPPOConfig):
    """Heterogeneous-agent PPO: independent policies that learn in turn, in a random order."""

    actor: ActorConfig = field(default_factory=lambda: chained_actor("none"))
    turns: Literal["backward", "random"] = "random"
    peer: bool = False
