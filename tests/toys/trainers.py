"""Every trainer in a small setting: windows of 28 steps, on points that move to the origin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from toys.reach import Reach, config, learned
from toys.recurrent import PLAIN
from toys.recurrent import settings as recurrent

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3SACConfig, SB3TD3Config
from diffsurrogate.wrappers.sb3.off_policy import SB3SAC, SB3TD3
from diffsurrogate.wrappers.sb3.on_policy import SB3PPO

HORIZON, WINDOW = 4, 28
"""Steps of a window, of one env and of all seven."""
MEMORY = replace(PLAIN, gru_size=9)
SEPARATE = SeparateNetConfig(hidden=(8,))


def plain_reach(**kwargs: Any) -> Reach:
    """Episodes of 8 steps, without gradients."""
    return Reach(differentiable=False, **kwargs)


def clipped(
    kind: type[PPO] = PPO, steps: dict[str, Any] | None = None, **changes: Any
) -> PPOConfig:
    """Two passes over minibatches of 13, 13 and 2 states."""
    start = kind.default_config()
    clip = replace(start.clip, **({"epochs": 2, "batch_size": 13} | (steps or {})))
    return replace(start, **({"horizon": HORIZON, "clip": clip} | changes))


def sequential(
    kind: type[BPPO] = BPPO, actor: dict[str, Any] | None = None, **changes: Any
) -> PPOConfig:
    """The same of agents which act one after another."""
    start = kind.default_config().actor
    changes = {"actor": replace(start, net=SEPARATE, **(actor or {}))} | changes
    return clipped(kind, {"lr": 1e-2}, **changes)


def stable_baselines(**changes: Any) -> SB3Config:
    """Minibatches of 13, the last one smaller."""
    start = {"horizon": HORIZON, "batch_size": 13, "epochs": 2, "hidden": (8,), "joint": False}
    return SB3Config(**(start | changes))


def off_policy(kind: type[SB3SACConfig | SB3TD3Config], **changes: Any) -> Any:
    """Learns from the second window on, and forgets after two and a half; 5 or 6 minibatches."""
    start = {
        "horizon": HORIZON,
        "batch_size": 13,
        "learning_starts": WINDOW,
        "env_steps_per_gradient_step": 5,
        "capacity": 10 * 7,
        "hidden": (8,),
    }
    return kind(**(start | changes))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A trainer, its configuration and the env it needs."""

    kind: type[Trainer]
    config: Any
    wrap: Callable[[Reach], MultiAgentVectorEnv] = lambda env: env
    """Gives the env learned gradients, where it needs them."""
    differentiable: bool = False

    def env(self, toy: type[Reach] = Reach, **kwargs: Any) -> MultiAgentVectorEnv:
        return self.wrap(toy(differentiable=self.differentiable, **kwargs))

    def make(self, env: Any = None, *, seed: int = 0, **changes: Any) -> Trainer:
        return self.kind(env or self.env(), replace(self.config, **changes), seed=seed)

    @property
    def recurrent(self) -> bool:
        return hasattr(self.config, "actor") and self.config.actor.net.gru_size > 0


_MEMORY = {"horizon": HORIZON, "ema_decay": 0.5}
_HYBRID = config(
    update=HybridUpdateConfig(ppo=ClipConfig(epochs=2, batch_size=17, lr=3e-3)),
    noise=NoiseConfig(),
    ema_decay=0.5,
)
_REMEMBERING = replace(
    _HYBRID,
    actor=ActorConfig(net=MEMORY, std=0.3),
    critic=CriticConfig(net=MEMORY),
    value=ValueLearningConfig(minibatches=2, batch_size=13, capacity=0),
)
TRAINERS = {
    "shac": Case(kind=SHAC, config=config(), differentiable=True),
    "shac+": Case(
        kind=SHAC,
        config=config(update=GradientUpdateConfig(gradient=PathwiseConfig(max_growth=1.0))),
        wrap=lambda env: learned(env, dynamics=False),
        differentiable=True,
    ),
    "shac++": Case(kind=SHAC, config=config(), wrap=learned),
    "hybrid": Case(kind=SHAC, config=_HYBRID, wrap=learned),
    "recurrent shac": Case(
        kind=SHAC,
        config=replace(_REMEMBERING, update=GradientUpdateConfig()),
        differentiable=True,
    ),
    "recurrent hybrid": Case(kind=SHAC, config=_REMEMBERING, wrap=learned),
    "ppo": Case(kind=PPO, config=clipped(PPO)),
    "ippo": Case(kind=IPPO, config=clipped(IPPO)),
    "mappo": Case(kind=MAPPO, config=clipped(MAPPO)),
    "recurrent ppo": Case(kind=PPO, config=recurrent(PPO, **_MEMORY)),
    "recurrent ippo": Case(kind=IPPO, config=recurrent(IPPO, **_MEMORY)),
    "recurrent mappo": Case(kind=MAPPO, config=recurrent(MAPPO, **_MEMORY)),
    "bppo": Case(kind=BPPO, config=sequential(BPPO)),
    "armappo": Case(kind=ARMAPPO, config=sequential(ARMAPPO)),
    "happo": Case(kind=HAPPO, config=sequential(HAPPO)),
    "sb3": Case(kind=SB3PPO, config=stable_baselines()),
    "sb3-sac": Case(kind=SB3SAC, config=off_policy(SB3SACConfig)),
    "sb3-td3": Case(kind=SB3TD3, config=off_policy(SB3TD3Config)),
}


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a state, with its name."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from leaves(value, f"{path}.{name}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, state


def what_differs(one: Any, other: Any) -> list[str]:
    """Name the tensors and numbers of two trainers or states that are not equal to the bit."""
    one, other = (
        dict(leaves(state.state_dict() if isinstance(state, Trainer) else state))
        for state in (one, other)
    )
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not _equal(one[name], other[name])
    ]


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
