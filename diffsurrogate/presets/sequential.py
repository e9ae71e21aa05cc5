"""Recipes of bppo, armappo and happo, and of every method without gradients in matrix games."""

from dataclasses import replace
from typing import TypeVar

from diffsurrogate.algorithms.bppo import BPPOConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.presets.recipe import Choice

SomeConfig = TypeVar("SomeConfig", bound=PPOConfig)


def recommended_bppo(choice: Choice) -> BPPOConfig:
    """Return the defaults of BPPO and its relatives; on MaMuJoCo those of its paper (table 6).

    The deviation at the start, which the paper does not give, is that of the other kinds of PPO.
    """
    start = {
        "bppo": BPPOConfig,
        "armappo": BPPOConfig.armappo,
        "happo": BPPOConfig.happo,
    }
    config = start[choice.method]()
    if choice.library == "games":
        return in_games(config)
    if choice.library != "mamujoco":
        return config
    net = replace(config.critic.net, activation=config.actor.net.activation)
    critic, actor = replace(config.critic, net=net), replace(config.actor, std=0.5)
    return replace(config, horizon=100, actor=actor, critic=critic)


def in_games(config: SomeConfig) -> SomeConfig:
    """Return what BPPO's paper trains matrix games with (tables 3 and 4), for any kind of PPO.

    Its windows hold 10,000 plays too. They are of more copies and fewer steps, which is faster and
    all the same where an episode is one play.
    """
    clip = replace(
        config.clip, epochs=15, batch_size=10_000, lr=5e-4, max_grad_norm=10.0, entropy_weight=0.01
    )
    return replace(
        config,
        horizon=5,
        actor=replace(config.actor, net=_small(config.actor.net)),
        critic=replace(config.critic, net=_small(config.critic.net)),
        clip=clip,
        critic_lr=5e-4,
    )


def _small(net: NetConfig) -> NetConfig:
    return replace(net, hidden=(64,), activation="relu")
