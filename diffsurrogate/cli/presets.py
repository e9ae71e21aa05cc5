"""Starting points of `train`, by method, env and network; the command line overrides them."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import tyro

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
from diffsurrogate.cli.options import (
    NOT_LEARNED_BY,
    Method,
    Network,
    Preset,
    TrainOptions,
    usual_agents,
)
from diffsurrogate.config import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.presets.papers import paper_preset
from diffsurrogate.presets.ppo import baseline
from diffsurrogate.surrogates.step_model import StepModelConfig

_TRANSFORMER = NetConfig(
    architecture="transformer", hidden=(64,), embed=(128, 128), activation="silu"
)
_SHARED = NetConfig(architecture="shared", hidden=(128, 128, 128), activation="silu")
_NETS: dict[Network, NetConfig] = {
    "shared": _SHARED,
    "shared-id": replace(_SHARED, agent_id=True),
    "transformer": _TRANSFORMER,
    "transformer-id": replace(_TRANSFORMER, agent_id=True),
    "hyper-linear": NetConfig(architecture="hyper-linear", activation="silu"),
    "hyper-mlp": NetConfig(architecture="hyper-mlp", activation="silu"),
    "dico": NetConfig(architecture="dico", activation="silu"),
}
"""Of SHAC's policy, but for mlp."""
_ALIKE = NetConfig(architecture="shared", hidden=(128, 128), activation="silu")
"""Of the step model of the paper's tasks, whose agents are all alike and touch things."""

_FOREIGN = ("gymnasium/", "pettingzoo/", "mpe2/", "mujoco/", "mamujoco/", "jaxmarl/")
"""Envs of other libraries: steps that may be slow, rewards of any size, ends by state."""
_NAMES = ("method", "env", "agents", "network", "preset")
"""Options that the defaults of all others depend on."""
_NO_MATTER = NOT_LEARNED_BY | {"seed", "device", "checkpoint_every"}


def recommended(options: TrainOptions) -> TrainOptions:
    """Return the defaults that suit the method, env, network and number of agents given."""
    if options.preset == "paper":
        return paper_preset(options)
    if options.method not in ("shac", "shac+", "shac++"):
        return _sized(baseline(options))
    if options.env == "diffsurrogate/cartpole-swingup" and options.method == "shac":
        classic = classic_shac()
        if options.network != "mlp":
            net = _NETS[options.network]
            critic_net = net if options.network in ("shared", "transformer") else _SHARED
            actor = replace(classic.actor, net=net)
            critic = replace(classic.critic, net=critic_net)
            classic = replace(classic, actor=actor, critic=critic)
        return replace(
            options,
            shac=classic,
            num_envs=64,
            total_steps=200 * 64 * 32,
            eval_every=25,
        )
    if options.network != "mlp":
        options = _weights_in_common(options)
    elif options.env.startswith("paper/"):
        width = max(64, 32 * (options.agents or 1))
        actor = replace(options.shac.actor, net=NetConfig(hidden=(width, width)))
        surrogates = replace(options.surrogates, adjoint_clip=3.0)
        options = replace(options, shac=_mixed(options, actor, lr=2e-3), surrogates=surrogates)
    if options.env.startswith("paper/"):
        step = StepModelConfig(net=_ALIKE, num_frequencies=6)
        options = replace(options, surrogates=replace(options.surrogates, dynamics=step))
    return _sized(options)


def parse_train(arguments: Sequence[str], default: TrainOptions) -> TrainOptions:
    """Return `default` as changed by what follows `train` on a command line."""
    return tyro.cli(
        tyro.conf.AvoidSubcommands[TrainOptions],
        prog="diffsurrogate train",
        args=list(arguments),
        default=default,
    )


def names_in(arguments: Sequence[str]) -> TrainOptions | None:
    """Return the options that all defaults depend on, whatever else is said on a command line.

    Args:
        arguments: what follows `train`.

    Returns:
        None if METHOD and ENV do not stand first, or one of these options is none there is.
    """
    if len(arguments) < 2 or any(word.startswith("-") for word in arguments[:2]):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--agents", "--network", "--preset"):
        parser.add_argument(name)
    try:
        found, _ = parser.parse_known_args(list(arguments[2:]))
        agents = None if found.agents in (None, "None") else int(found.agents)
    except (argparse.ArgumentError, ValueError):
        return None
    method, network, preset = arguments[0], found.network or "mlp", found.preset or "default"
    known = ((method, Method), (network, Network), (preset, Preset))
    if any(value not in get_args(values) for value, values in known):
        return None
    content = {"method": method, "env": arguments[1], "network": network, "preset": preset}
    return TrainOptions.from_json(content | {"agents": agents})


def read_train(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of what follows `train`, METHOD and ENV first.

    Raises:
        UsageError: METHOD, ENV or what else the defaults depend on is none there is.
    """
    names = names_in(arguments)
    if names is None:
        raise UsageError(f"no defaults are known for train {' '.join(arguments[:2])}")
    return parse_train(arguments, named_by(names))


def named_by(given: TrainOptions) -> TrainOptions:
    """Return the recommended defaults for the method, env, agents, network and preset given."""
    return recommended(TrainOptions(**{name: getattr(given, name) for name in _NAMES}))


def what_differs(config: dict[str, Any]) -> str:
    """Return which settings of a run, as it wrote them, are not the recommended ones."""
    config = {"preset": "default", **config}
    usual = recommended(TrainOptions(**{name: config[name] for name in _NAMES})).to_json()
    found = differences(usual | {"preset": "default"}, config)
    return ", ".join(f"{name}={now}" for name, _, now in found if name not in _NO_MATTER)


def _sized(options: TrainOptions) -> TrainOptions:
    """Return as many envs, steps and evaluations as the env is good for, whatever the method."""
    if options.env.startswith(_FOREIGN):
        options = replace(options, eval_envs=64)
        return _foreign(options) if options.method == "shac++" else options
    if not options.env.startswith("paper/"):
        return options
    return replace(
        options,
        agents=usual_agents(options.env, options.agents),
        num_envs=256,
        eval_every=25,
        max_steps=512,
        total_steps=20_000_000,
    )


def _foreign(options: TrainOptions) -> TrainOptions:
    """Return what learns from few steps, with `SHACConfig.mixed`."""
    shac, external = options.shac, SHACConfig.for_external_envs()
    assert isinstance(external.update, HybridUpdateConfig)
    gradient = replace(external.update.gradient, minibatches=shac.update.gradient.minibatches)
    std, learn_std = external.actor.std, external.actor.learn_std
    shac = replace(
        external,
        actor=replace(shac.actor, std=std, learn_std=learn_std),  # its own network
        critic=shac.critic,
        betas=shac.betas,
        update=replace(external.update, gradient=gradient),
        value=replace(
            shac.value, minibatches=external.value.minibatches, capacity=external.value.capacity
        ),
    )
    surrogates = replace(options.surrogates, termination=True)
    return replace(
        options,
        shac=shac,
        surrogates=surrogates,
        num_envs=16,
        total_steps=500_000,
        eval_every=10,
    )


def _mixed(options: TrainOptions, actor: ActorConfig, *, lr: float) -> SHACConfig:
    """Return pathwise and score-function gradients mixed, as tasks gated by contact need them.

    Where all is learned the pathwise gradient is of half the envs, at half the price.
    """
    shac = options.shac
    gradient = PathwiseConfig(
        lam=0.4, minibatches=2 if options.method == "shac++" else 1, action_penalty_weight=0.0
    )
    ppo = replace(HybridUpdateConfig().ppo, batch_size=2048, lr=lr)
    return replace(
        shac,
        actor=actor,
        noise=NoiseConfig(kind="white"),
        update=HybridUpdateConfig(ppo=ppo, weight=0.2, gradient=gradient),
        value=replace(
            shac.value,
            expectile=0.8,
            expectile_one_signed=0.65,
            minibatches=16,
            batch_size=1024,
            bins=1,
            capacity=60_000,
        ),
        ema_decay=0.95,
    )


def classic_shac() -> SHACConfig:
    """Return SHAC as its paper trains cart-pole swing-up (arXiv:2204.07137, table 4)."""
    net = NetConfig(hidden=(64, 64))
    return SHACConfig(
        actor=ActorConfig(net=net, std=math.exp(-1), learn_std=True, squash=True),
        critic=CriticConfig(net=net),
        update=GradientUpdateConfig(gradient=PathwiseConfig(action_penalty_weight=0.0), lr=1e-2),
        value=ValueLearningConfig(lr=1e-3, minibatches=64, capacity=0),
        lr_schedule="linear",
        randomise_episode_phase=False,
    )


def _weights_in_common(options: TrainOptions) -> TrainOptions:
    """Return what measured best for a Transformer over agents as the policy (SHAC++, B.2).

    Agents that share a policy and see almost the same must learn "to the nearest one left", which
    takes a good value function and a reward model without phantom slopes. The other networks start
    from the same, unmeasured.
    """
    shac = _mixed(options, replace(options.shac.actor, net=_NETS[options.network]), lr=1e-3)
    shac = replace(
        shac,
        critic=replace(shac.critic, net=_SHARED),
        value=replace(shac.value, lr=1e-3),
        betas=(0.9, 0.99),
    )
    reward = replace(options.surrogates.reward, net=_SHARED, range="bounded")
    surrogates = replace(options.surrogates, reward=reward, minibatches=12)
    return replace(options, shac=shac, surrogates=surrogates)
