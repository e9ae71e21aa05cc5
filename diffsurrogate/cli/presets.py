"""Starting points of `train`, by method, env and network; the command line overrides them."""

import math
from dataclasses import replace
from typing import Any

from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.configuration import differences
from diffsurrogate.critics import CriticConfig
from diffsurrogate.nets import NetConfig
from diffsurrogate.policies import ActorConfig

_TRANSFORMER = NetConfig(architecture="transformer", hidden=(64,))

_NO_MATTER = {"seed", "out", "resume", "device", "threads", "progress"}
_NO_MATTER |= {"film_steps", "checkpoint_every"}


def recommended(options: TrainOptions) -> TrainOptions:
    """Return the defaults that suit the method, env, network and number of agents given."""
    if options.env == "diffsurrogate/cartpole-swingup" and options.method == "shac":
        classic = classic_shac()
        return replace(
            options,
            shac=transformer(classic) if options.network == "transformer" else classic,
            num_envs=64,
            total_steps=200 * 64 * 32,
            eval_every=25,
        )
    if options.network == "transformer":
        reward = replace(options.surrogates.reward, net=_TRANSFORMER)
        options = replace(
            options,
            shac=transformer(options.shac),
            surrogates=replace(options.surrogates, reward=reward),
        )
    if options.env.startswith("paper/"):
        return _paper_task(options)
    return options


def what_differs(config: dict[str, Any]) -> str:
    """Return which settings of a run, as it wrote them, are not the recommended ones."""
    start = {name: config[name] for name in ("method", "env", "agents", "network")}
    usual = recommended(TrainOptions(**start)).to_json()
    found = differences(usual, config)
    return ", ".join(f"{name}={now}" for name, _, now in found if name not in _NO_MATTER)


def _paper_task(options: TrainOptions) -> TrainOptions:
    """Return the numbers of envs, widths and minibatches that measured best on these tasks."""
    agents = options.agents or 1
    shac, surrogates = options.shac, options.surrogates
    if options.network == "mlp":
        net = NetConfig(hidden=(32 * agents, 32 * agents))
        shac = replace(shac, actor=replace(shac.actor, net=net))
    if agents == 1:
        shac = replace(shac, critic_updates=4)
        surrogates = replace(surrogates, minibatches=4)
    return replace(
        options,
        shac=shac,
        surrogates=surrogates,
        agents=agents,
        num_envs=256 if agents == 1 else 128,
        eval_every=10 if agents == 1 else 25,
        max_steps=320,
        total_steps=10_000_000,
    )


def classic_shac() -> SHACConfig:
    """Return SHAC as its paper trains cart-pole swing-up (arXiv:2204.07137, table 4)."""
    net = NetConfig(hidden=(64, 64))
    return SHACConfig(
        actor=ActorConfig(net=net, std=math.exp(-1), learn_std=True, squash=True),
        critic=CriticConfig(net=net),
        actor_lr=1e-2,
        critic_lr=1e-3,
        schedule="linear",
        box_weight=0.0,
        critic_updates=64,
        value_capacity=0,
        stagger=False,
    )


def transformer(config: SHACConfig) -> SHACConfig:
    """Return a configuration with Transformers over agents, 64 wide and 1 deep (SHAC++, B.2)."""
    return replace(
        config,
        actor=replace(config.actor, net=_TRANSFORMER),
        critic=replace(config.critic, net=_TRANSFORMER),
    )
