"""Starting points of bppo, armappo and happo, and of every method without gradients in games."""

from dataclasses import replace
from typing import TypeVar

from diffsurrogate.algorithms.bppo import ARMAPPOConfig, BPPOConfig, HAPPOConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.cli.options import SEQUENTIAL_METHODS, TrainOptions
from diffsurrogate.config import as_plain
from diffsurrogate.nets.config import NetConfig

SomeConfig = TypeVar("SomeConfig", bound=PPOConfig)


def chained(options: TrainOptions) -> TrainOptions:
    """Return the defaults of BPPO and its relatives; on MaMuJoCo those of its paper (table 6).

    The deviation at the start, which the paper does not give, is that of the other kinds of PPO.
    """
    kind = {"bppo": BPPOConfig, "armappo": ARMAPPOConfig, "happo": HAPPOConfig}[options.method]
    config = as_plain(BPPOConfig, kind())
    if not options.env.startswith("mamujoco/"):
        return replace(options, bppo=config)
    net = replace(config.critic.net, activation=config.actor.net.activation)
    critic, actor = replace(config.critic, net=net), replace(config.actor, std=0.5)
    config = replace(config, horizon=100, actor=actor, critic=critic)
    return replace(options, bppo=config, num_envs=40, total_steps=10_000_000, eval_every=25)


def in_games(options: TrainOptions) -> TrainOptions:
    """Return what BPPO's paper trains matrix games with (tables 3 and 4), for any kind of PPO.

    Its windows hold 10,000 plays too. They are of more copies and fewer steps, which is faster and
    all the same where an episode is one play.
    """
    if options.method in SEQUENTIAL_METHODS:
        options = replace(options, bppo=_game(options.bppo))
    else:
        options = replace(options, ppo=_game(options.ppo))
    return replace(
        options,
        num_envs=2000,
        total_steps=1_000_000,
        eval_every=5,
        eval_envs=8,
    )


def _game(config: SomeConfig) -> SomeConfig:
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
