"""Hyperparameters of PPO, IPPO and MAPPO."""

from dataclasses import dataclass, field
from typing import Literal

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.window import check_horizon
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig

_JOINT = NetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
_SEPARATE = NetConfig(architecture="separate", hidden=(64, 64), activation="tanh", layer_norm=False)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a policy climbs PPO's clipped objective on one window (arXiv:1707.06347)."""

    epochs: int = 4
    """Passes over the window; none of them if 0."""
    batch_size: int = 2048
    """States of all agents in a minibatch. Policies with memory learn from whole windows of some
    envs, as many as that allows, at least one."""
    clip_range: float = 0.2
    """ε: how far the ratio of new to old density may move a sample's gain."""
    lr: float = 1e-3
    """Adam's learning rate of the policy."""
    max_norm: float = 0.5
    """Largest gradient norm."""
    target_kl: float | None = None
    """Leave a window once a minibatch shows that the policy moved this far (mean KL divergence)."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    ratio: Literal["agent", "team"] = "agent"
    """agent: a ratio for each agent's action, clipped by itself. team: one ratio of the actions of
    all, as of one controller."""
    credit: Literal["own", "team"] = "own"
    """own: an agent's action earns that agent's reward. team: it earns the mean over all."""
    normalise: bool = True
    """Advantages of a minibatch get mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "epochs", low=0.0)
        require_range(self, "batch_size", low=1.0)
        require_range(self, "clip_range", "max_norm", low=1e-12)
        require_range(self, "lr", "entropy_weight", low=0.0)
        if self.target_kl is not None:
            require_range(self, "target_kl", low=1e-12)


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    horizon: int = 32
    """Steps of a window."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """λ of advantages (GAE) and of value targets."""
    actor: ActorConfig = field(default_factory=lambda: ActorConfig(net=_JOINT, learn_std=True))
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(net=_JOINT, target_decay=0.0))
    clip: ClipConfig = field(default_factory=lambda: ClipConfig(ratio="team", credit="team"))
    critic_lr: float = 1e-3
    """Adam's learning rate of the value function."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: learning rates fall to 0 over the training."""
    scale_rewards: bool = True
    """Divide rewards by the running deviation of the discounted return, so that values are of
    order 1 whatever the env's units."""
    average: float = 0.0
    """Decay per update of a running mean of the policy's weights, which predictions are made with;
    0 predicts with the weights as they are. Policies waver from update to update, their mean less
    so. Early on less is kept, so that it never lags by more than about a ninth of the updates."""
    stagger: bool = True
    """Begin with time limits spread over the envs, so that windows hold all ages of episodes."""

    def __post_init__(self) -> None:
        require_choices(self)
        check_horizon(self.horizon)
        require_range(self, "gamma", "lam", low=0.0, high=1.0)
        require_range(self, "average", low=0.0, high=0.9999)
        require_range(self, "critic_lr", low=0.0)
        require_range(self.clip, "epochs", low=1.0)
        refuse_squash(self.actor)


@dataclass(frozen=True, kw_only=True)
class IPPOConfig(PPOConfig):
    """Independent PPO: every agent learns from its own observation and reward alone."""

    actor: ActorConfig = field(default_factory=lambda: ActorConfig(net=_SEPARATE, learn_std=True))
    critic: CriticConfig = field(
        default_factory=lambda: CriticConfig(net=_SEPARATE, target_decay=0.0)
    )
    clip: ClipConfig = field(default_factory=ClipConfig)


@dataclass(frozen=True, kw_only=True)
class MAPPOConfig(IPPOConfig):
    """Multi-agent PPO (arXiv:2103.01955): IPPO with a critic that sees every observation."""

    critic: CriticConfig = field(default_factory=lambda: CriticConfig(net=_JOINT, target_decay=0.0))


def refuse_memory(method: str, *nets: NetConfig) -> None:
    """Refuse networks with memory where only PPO, IPPO and MAPPO know what to do with it."""
    widest = max(net.memory for net in nets)
    if widest > 0:
        raise UsageError(
            f"net.memory is {widest}, but {method} learns policies and critics without; leave it "
            "at 0, or train by PPO, IPPO or MAPPO"
        )


def refuse_squash(actor: ActorConfig) -> None:
    """Refuse a squashed policy, whose density is infinite at the border of the box."""
    if actor.squash:
        raise UsageError(
            "PPO's ratio needs the density of the action as it was drawn, which a squashed one "
            "does not keep; leave actor.squash False"
        )
