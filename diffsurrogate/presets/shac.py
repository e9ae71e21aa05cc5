"""Recipes of SHAC, SHAC+ and SHAC++."""

import math
from dataclasses import dataclass, replace

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.policy_updates import (
    GradientUpdateConfig,
    HybridUpdateConfig,
    PathwiseConfig,
)
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.nets.config import (
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.presets.recipe import Choice, Network, RunConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.step_model import StepModelConfig

_TRANSFORMER = TransformerConfig(hidden=(64,), embed=(128, 128), activation="silu")
_SHARED = SharedNetConfig(hidden=(128, 128, 128), activation="silu")
_NETS: dict[Network, NetConfig] = {
    "shared": _SHARED,
    "shared-id": replace(_SHARED, agent_id=True),
    "transformer": _TRANSFORMER,
    "transformer-id": replace(_TRANSFORMER, agent_id=True),
    "hyper-linear": HyperLinearConfig(activation="silu"),
    "hyper-mlp": HyperMLPConfig(activation="silu"),
    "dico": DiCoConfig(activation="silu"),
}
"""Of the policy, but for mlp."""
_ALIKE = SharedNetConfig(hidden=(128, 128), activation="silu")
"""Of the models of the paper's tasks, whose agents are all alike and touch things."""


def recommended_shac(choice: Choice, num_envs: int) -> SHACConfig:
    """Return the hyperparameters of SHAC, SHAC+ or SHAC++.

    The paper's tasks have recipes of their own; elsewhere it is `SHACConfig.hybrid`, which
    `SHAC(env)` takes too, with the network asked for.
    """
    if is_classic(choice):
        return _classic(choice, num_envs)
    if choice.network != "mlp":
        config = _shared_weights(choice)
        return config if choice.library == "paper" else _hybrid(config, choice, num_envs)
    if choice.library == "paper":
        width = max(64, 32 * (choice.agents or 1))
        actor = ActorConfig(net=JointNetConfig(hidden=(width, width)))
        return _mixed(choice, actor, lr=2e-3)
    return _hybrid(SHACConfig(), choice, num_envs)


def recommended_surrogates(choice: Choice) -> SurrogateConfig:
    """Return the models that SHAC+ or SHAC++ learns."""
    config = SurrogateConfig()
    if choice.network != "mlp":
        # Agents that share a policy need a reward model without slopes that are not there.
        reward = replace(config.reward, net=_shared(choice), range="bounded")
        config = replace(config, reward=reward, fit=FitConfig(minibatches=12))
    elif choice.library == "paper":
        config = replace(config, adjoint_clip=3.0, reward=replace(config.reward, net=_ALIKE))
    if choice.library == "paper":
        step = StepModelConfig(net=_ALIKE, num_frequencies=6, leave_out_jumps=False)
        config = replace(config, dynamics=step)
    return config if choice.library == "paper" else replace(config, termination=True)


def _shared(choice: Choice) -> SharedNetConfig:
    """Return the critic's and the reward model's network beside a policy that is no joint MLP.

    It tells agents apart unless the policy does not; the paper's tasks were measured without.
    """
    alike = choice.library == "paper" or choice.network in ("shared", "transformer")
    return replace(_SHARED, agent_id=not alike)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A row of table 4 of SHAC's paper (arXiv:2204.07137)."""

    actor: tuple[int, ...] = (128, 64, 32)
    critic: tuple[int, ...] = (64, 64)
    lr: float = 2e-3
    critic_lr: float = 2e-3
    target_decay: float = 0.2
    num_envs: int = 64
    updates: int = 2000


_TASKS = {
    "diffsurrogate/cartpole-swingup": _Task(actor=(64, 64), lr=1e-2, critic_lr=1e-3, updates=200),
    "mjx/hopper": _Task(critic_lr=2e-4, num_envs=256),
    "mjx/halfcheetah": _Task(),
    "mjx/ant": _Task(),
    "mjx/humanoid": _Task(actor=(256, 128), critic=(128, 128), critic_lr=5e-4, target_decay=0.995),
    "mjx/humanoid-muscle": _Task(
        actor=(512, 256), critic=(256, 256), critic_lr=5e-4, target_decay=0.995
    ),
}
"""The tasks of SHAC's own paper, with `mjx/humanoid-muscle` in place of its Humanoid MTU. Cart-pole
is learned after 200 of its 500 updates."""


def is_classic(choice: Choice) -> bool:
    """Return whether it is SHAC on a task of its own paper."""
    return choice.method == "shac" and choice.env in _TASKS


def classic_run(choice: Choice) -> RunConfig:
    """Return as many envs and steps as the paper takes."""
    task = _TASKS[choice.env]
    steps = task.updates * task.num_envs * SHACConfig().horizon
    evaluation = {"eval_envs": task.num_envs} if choice.library == "mjx" else {}  # compiled already
    return RunConfig(num_envs=task.num_envs, total_steps=steps, eval_every=25, **evaluation)


def _classic(choice: Choice, num_envs: int) -> SHACConfig:
    """Return SHAC as its paper trains the task (arXiv:2204.07137, table 4)."""
    task = _TASKS[choice.env]
    actor = _NETS.get(choice.network, JointNetConfig(hidden=task.actor))
    critic = _NETS.get(choice.network, JointNetConfig(hidden=task.critic))
    if choice.network not in ("mlp", "shared", "transformer"):
        critic = _SHARED
    return SHACConfig(
        actor=ActorConfig(net=actor, std=math.exp(-1), learn_std=True, squash=True),
        critic=CriticConfig(net=critic, target_decay=task.target_decay),
        update=GradientUpdateConfig(gradient=PathwiseConfig(action_penalty_weight=0.0), lr=task.lr),
        value=ValueLearningConfig(
            lr=task.critic_lr, minibatches=64, batch_size=max(1, num_envs * 8), capacity=0
        ),
        lr_schedule="linear",
        randomise_episode_phase=False,
    )


def _hybrid(config: SHACConfig, choice: Choice, num_envs: int) -> SHACConfig:
    """Return `SHACConfig.hybrid` with the networks and rates of `config`."""
    hybrid = SHACConfig.hybrid(
        num_envs, segments=choice.method == "shac++", articulated=choice.articulated
    )
    minibatches = config.update.gradient.minibatches if choice.method == "shac++" else 1
    gradient = replace(hybrid.update.gradient, minibatches=minibatches)
    std, learn_std = hybrid.actor.std, hybrid.actor.learn_std
    return replace(
        hybrid,
        actor=replace(config.actor, std=std, learn_std=learn_std),
        critic=hybrid.critic if choice.network == "mlp" else CriticConfig(net=_shared(choice)),
        betas=config.betas,
        update=replace(hybrid.update, gradient=gradient),
        value=replace(
            config.value, minibatches=hybrid.value.minibatches, capacity=hybrid.value.capacity
        ),
    )


def _mixed(choice: Choice, actor: ActorConfig, *, lr: float) -> SHACConfig:
    """Return pathwise and likelihood-ratio gradients mixed, as tasks gated by contact need them.

    Where all is learned the pathwise gradient is of half the envs, at half the price.
    """
    gradient = PathwiseConfig(
        lam=0.4, minibatches=2 if choice.method == "shac++" else 1, action_penalty_weight=0.0
    )
    ppo = replace(HybridUpdateConfig().ppo, batch_size=2048, lr=lr)
    return SHACConfig(
        actor=actor,
        noise=NoiseConfig(kind="white"),
        update=HybridUpdateConfig(ppo=ppo, weight=0.2, gradient=gradient),
        value=ValueLearningConfig(
            expectile=0.8,
            expectile_one_signed=0.65,
            minibatches=16,
            batch_size=1024,
            bins=1,
            capacity=60_000,
        ),
        ema_decay=0.95,
    )


def _shared_weights(choice: Choice) -> SHACConfig:
    """Return what measured best for a Transformer over agents as the policy (SHAC++, B.2).

    Agents that share a policy and see almost the same must learn "to the nearest one left", which
    takes a good value function. The other networks start from the same, unmeasured.
    """
    config = _mixed(choice, ActorConfig(net=_NETS[choice.network]), lr=1e-3)
    return replace(
        config,
        critic=replace(config.critic, net=_SHARED),
        value=replace(config.value, lr=1e-3),
        betas=(0.9, 0.99),
    )
