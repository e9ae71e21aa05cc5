"""Recipes of SHAC, SHAC+ and SHAC++."""

import math
from dataclasses import replace

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.presets.recipe import Choice, Network
from diffsurrogate.surrogates.config import SurrogateConfig

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
"""Of the policy, but for mlp."""
_ALIKE = NetConfig(architecture="shared", hidden=(128, 128), activation="silu")
"""Of the step model of the paper's tasks, whose agents are all alike and touch things."""


def recommended_shac(choice: Choice) -> SHACConfig:
    """Return the hyperparameters of SHAC, SHAC+ or SHAC++."""
    if is_classic(choice):
        return _classic(choice.network)
    config = SHACConfig()
    if choice.network != "mlp":
        config = _shared_weights(config, choice)
    elif choice.library == "paper":
        width = max(64, 32 * (choice.agents or 1))
        actor = replace(config.actor, net=NetConfig(hidden=(width, width)))
        config = _mixed(config, choice, actor, lr=2e-3)
    if choice.external and choice.method == "shac++":
        config = _external(config)
    return config


def recommended_surrogates(choice: Choice) -> SurrogateConfig:
    """Return the models that SHAC+ or SHAC++ learns."""
    config = SurrogateConfig()
    if choice.network != "mlp":
        # Agents that share a policy need a reward model without slopes that are not there.
        reward = replace(config.reward, net=_SHARED, range="bounded")
        config = replace(config, reward=reward, minibatches=12)
    elif choice.library == "paper":
        config = replace(config, adjoint_clip=3.0)
    if choice.library == "paper":
        config = replace(config, step=replace(config.step, net=_ALIKE, num_frequencies=6))
    if choice.external and choice.method == "shac++":
        config = replace(config, termination=True)
    return config


def is_classic(choice: Choice) -> bool:
    """Return whether it is SHAC on the task of its own paper, cart-pole swing-up."""
    return choice.method == "shac" and choice.env == "diffsurrogate/cartpole-swingup"


def _classic(network: Network) -> SHACConfig:
    """Return SHAC as its paper trains cart-pole swing-up (arXiv:2204.07137, table 4)."""
    net = _NETS.get(network, NetConfig(hidden=(64, 64)))
    critic = net if network in ("mlp", "shared", "transformer") else _SHARED
    return SHACConfig(
        actor=ActorConfig(net=net, std=math.exp(-1), learn_std=True, squash=True),
        critic=CriticConfig(net=critic),
        actor_lr=1e-2,
        critic_lr=1e-3,
        schedule="linear",
        action_penalty_weight=0.0,
        critic_updates=64,
        value_capacity=0,
        randomise_episode_phase=False,
    )


def _external(config: SHACConfig) -> SHACConfig:
    """Return `config` changed as `SHACConfig.mixed`, which learns from few steps."""
    usual, mixed = SHACConfig(), SHACConfig.mixed()
    changed = {k: v for k, v in vars(mixed).items() if v != getattr(usual, k)}
    std, learn_std = mixed.actor.std, mixed.actor.learn_std
    changed["actor"] = replace(config.actor, std=std, learn_std=learn_std)  # its own network
    return replace(config, **changed)


def _mixed(config: SHACConfig, choice: Choice, actor: ActorConfig, *, lr: float) -> SHACConfig:
    """Return pathwise and likelihood-ratio gradients mixed, as tasks gated by contact need them.

    Where all is learned the pathwise gradient is of half the envs, at half the price.
    """
    if choice.method == "shac++":
        config = replace(config, actor_minibatches=2)
    return replace(
        config,
        actor=actor,
        noise=NoiseConfig(kind="white"),
        score=replace(config.score, epochs=4, batch_size=2048, lr=lr),
        pathwise_weight=0.2,
        actor_lam=0.4,
        action_penalty_weight=0.0,
        expectile=0.8,
        expectile_one_signed=0.65,
        critic_updates=16,
        critic_batch_size=1024,
        value_bins=1,
        value_capacity=60_000,
        ema_decay=0.95,
    )


def _shared_weights(config: SHACConfig, choice: Choice) -> SHACConfig:
    """Return what measured best for a Transformer over agents as the policy (SHAC++, B.2).

    Agents that share a policy and see almost the same must learn "to the nearest one left", which
    takes a good value function. The other networks start from the same, unmeasured.
    """
    actor = replace(config.actor, net=_NETS[choice.network])
    return replace(
        _mixed(config, choice, actor, lr=1e-3),
        critic=replace(config.critic, net=_SHARED),
        critic_lr=1e-3,
        betas=(0.9, 0.99),
    )
