"""`--preset shac`, `ahac` and `sapo`: settings that others published for true gradients."""

import math
from dataclasses import dataclass, replace

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.algorithms.adaptive_horizon import MAX_GROWTH
from diffsurrogate.algorithms.max_entropy import EntropyConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import Activation, JointNetConfig
from diffsurrogate.presets.recipe import Choice, Recipe, RunConfig
from diffsurrogate.presets.shac import recommended_surrogates


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A row of table 4 of SHAC's paper (arXiv:2204.07137); by default those of its Ant."""

    actor: tuple[int, ...] = (128, 64, 32)
    critic: tuple[int, ...] = (64, 64)
    lr: float = 2e-3
    critic_lr: float = 2e-3
    target_decay: float = 0.2
    num_envs: int = 64
    updates: int = 2000


_TASKS = {
    "diffsurrogate/cartpole-swingup": _Task(actor=(64, 64), lr=1e-2, critic_lr=1e-3, updates=500),
    "mjx/hopper": _Task(critic_lr=2e-4, num_envs=256),
    "mjx/humanoid": _Task(actor=(256, 128), critic=(128, 128), critic_lr=5e-4, target_decay=0.995),
    "mjx/humanoid-muscle": _Task(
        actor=(512, 256), critic=(256, 256), critic_lr=5e-4, target_decay=0.995
    ),
}
"""The rows that differ, with `mjx/humanoid-muscle` in place of the paper's Humanoid MTU."""


def published_recipe(choice: Choice) -> Recipe:
    """Return the settings of SHAC, AHAC or SAPO, for true gradients or learned ones.

    shac: table 4 of its paper (arXiv:2204.07137); on other envs, the row of its Ant. ahac: the same
    with two critics and an adaptive horizon (arXiv:2405.17784), which follows the measured growth
    of the gradient, not contact forces. sapo: SHAC with an entropy bonus, standard deviations that
    depend on the state, two critics without target networks, and SiLU (arXiv:2412.12089), without
    its weight decay.

    Raises:
        UsageError: the method or the network is none of theirs.
    """
    preset = choice.preset
    if choice.method not in ("shac", "shac+", "shac++"):
        raise UsageError(
            f"--preset {preset} is for shac, shac+ and shac++, but the method is {choice.method}; "
            "leave it out"
        )
    if choice.network != "mlp":
        raise UsageError(
            f"the networks of --preset {preset} are MLPs, but --network is {choice.network}; leave "
            "one of them out"
        )
    task = _TASKS.get(choice.env, _Task())
    config = {"shac": _shac, "ahac": _ahac, "sapo": _sapo}[preset](task)
    run = RunConfig(
        num_envs=task.num_envs,
        total_steps=task.updates * task.num_envs * config.horizon,
        eval_every=25,
        eval_envs=task.num_envs,  # a simulator that is compiled for so many copies has it by then
    )
    learned = None if choice.method == "shac" else recommended_surrogates(choice)
    return Recipe(**vars(choice), run=run, config=config, surrogates=learned)


def _shac(task: _Task) -> SHACConfig:
    return SHACConfig(
        actor=ActorConfig(net=_mlp(task.actor), std=math.exp(-1), learn_std=True, squash=True),
        critic=CriticConfig(net=_mlp(task.critic), target_decay=task.target_decay),
        update=GradientUpdateConfig(gradient=PathwiseConfig(action_penalty_weight=0.0), lr=task.lr),
        value=ValueLearningConfig(
            lr=task.critic_lr, minibatches=64, batch_size=task.num_envs * 8, capacity=0
        ),
        lr_schedule="linear",
        randomise_episode_phase=False,
    )


def _ahac(task: _Task) -> SHACConfig:
    config = _shac(task)
    gradient = PathwiseConfig(action_penalty_weight=0.0, max_growth=MAX_GROWTH)
    return replace(
        config,
        critic=replace(config.critic, ensemble=2),
        update=replace(config.update, gradient=gradient),
    )


def _sapo(task: _Task) -> SHACConfig:
    config = _shac(task)
    actor = ActorConfig(
        net=_mlp(task.actor, "silu"), std=1.0, state_dependent_std=True, squash=True
    )
    return replace(
        config,
        actor=actor,
        critic=CriticConfig(net=_mlp(task.critic, "silu"), target_decay=0.0, ensemble=2),
        entropy=EntropyConfig(temperature=1.0),
        update=GradientUpdateConfig(gradient=config.update.gradient, lr=task.lr, max_grad_norm=0.5),
        value=replace(config.value, lr=5e-4, max_grad_norm=0.5),
    )


def _mlp(hidden: tuple[int, ...], activation: Activation = "elu") -> JointNetConfig:
    return JointNetConfig(hidden=hidden, activation=activation)
