"""Recipes of ppo, ippo, mappo and of what Stable-Baselines3 has."""

from dataclasses import replace

from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.config import changed_to
from diffsurrogate.nets.config import (
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.presets.recipe import Choice, Network
from diffsurrogate.presets.sequential import in_games
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3SACConfig, SB3TD3Config

_TRANSFORMER = TransformerConfig(hidden=(64,), embed=(64,), activation="tanh", layer_norm=False)
_OWN = JointNetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
_SHARED = changed_to(SharedNetConfig, _OWN, pool_others=False)
_NETS: dict[Network, NetConfig] = {
    "shared": _SHARED,
    "shared-id": replace(_SHARED, agent_id=True),
    "transformer": _TRANSFORMER,
    "transformer-id": replace(_TRANSFORMER, agent_id=True),
    "hyper-linear": changed_to(HyperLinearConfig, _OWN),
    "hyper-mlp": changed_to(HyperMLPConfig, _OWN),
    "dico": changed_to(DiCoConfig, _OWN),
}
"""Of the policy, but for mlp; that of ppo's one controller hears all (`pool_others`)."""


def recommended_ppo(choice: Choice) -> PPOConfig:
    """Return the hyperparameters of PPO, IPPO or MAPPO."""
    start = {"ppo": PPOConfig, "ippo": PPOConfig.ippo, "mappo": PPOConfig.mappo}
    config = _with_network(start[choice.method](), choice)
    if choice.library == "games":
        return in_games(config)
    width = _width(choice)
    if width is not None:
        actor, critic = (_wider(part.net, width) for part in (config.actor, config.critic))
        return replace(
            config,
            actor=replace(config.actor, net=actor),
            critic=replace(config.critic, net=critic),
        )
    if not _has_slow_steps(choice):
        return config
    robot = choice.articulated
    clip = replace(config.clip, epochs=10, batch_size=256, lr=_rate(robot))
    actor_config = replace(config.actor, std=0.5) if robot else config.actor
    config = replace(config, horizon=128, actor=actor_config, clip=clip)
    measured = choice.method == "ppo" and choice.network == "mlp" and choice.library != "mjx"
    return _as_in_shac(config) if robot and measured else config


def _as_in_shac(ppo: PPOConfig) -> PPOConfig:
    """Return `ppo` with what SHAC++'s PPO steps have on robots, so that both are tuned alike."""
    actor, critic = (
        changed_to(JointNetConfig, part.net, activation=activation, layer_norm=True)
        for part, activation in ((ppo.actor, "elu"), (ppo.critic, "silu"))
    )
    return replace(
        ppo,
        actor=replace(ppo.actor, net=actor),
        critic=replace(ppo.critic, net=critic),
        clip=replace(ppo.clip, target_kl=0.03),
        gamma=None,
        critic_lr=3e-3,
        ema_decay=0.9,
    )


def recommended_sb3(choice: Choice) -> SB3Config | SB3SACConfig | SB3TD3Config:
    """Return the hyperparameters of Stable-Baselines3's PPO, SAC or TD3."""
    joint = choice.network == "mlp"
    if choice.method != "sb3-ppo":
        kind = SB3SACConfig if choice.method == "sb3-sac" else SB3TD3Config
        few = _has_slow_steps(choice) and choice.library != "mjx"
        return kind(joint=joint, horizon=128 if few else kind.horizon)
    config = SB3Config(joint=joint)
    width = _width(choice)
    if width is not None:
        return replace(config, hidden=(width, width))
    if not _has_slow_steps(choice):
        return config
    robot = choice.articulated
    config = replace(config, horizon=128, epochs=10, batch_size=256, lr=_rate(robot))
    return replace(config, std=0.5) if robot else config


def _with_network(ppo: PPOConfig, choice: Choice) -> PPOConfig:
    """Return `ppo` with the network asked for, and a critic to match."""
    if choice.network == "mlp":
        return ppo
    actor = _NETS[choice.network]
    if choice.method == "ppo" and isinstance(actor, SharedNetConfig):
        actor = replace(actor, pool_others=True)
    critic = _critic(choice, actor, ppo.critic.net)
    return replace(ppo, actor=replace(ppo.actor, net=actor), critic=replace(ppo.critic, net=critic))


def _critic(choice: Choice, actor: NetConfig, own: NetConfig) -> NetConfig:
    """Return the network of a critic that goes with the actor's; `own` is the method's own."""
    if choice.method == "mappo" and isinstance(actor, HyperLinearConfig | HyperMLPConfig):
        return replace(actor, centralised=True)
    if choice.method == "ippo":
        return _NETS["shared-id"] if isinstance(actor, DiCoConfig) else actor
    same = isinstance(actor, TransformerConfig)
    same |= isinstance(actor, SharedNetConfig) and choice.method == "ppo"
    return actor if same else own


def _width(choice: Choice) -> int | None:
    """Return the width of joint networks where many agents need more than usual."""
    agents = choice.agents or 1
    many = choice.library == "paper" and agents > 2 and choice.network == "mlp"
    return 32 * agents if many else None


def _wider(net: NetConfig, width: int) -> NetConfig:
    """Return a joint network of that width; a separate one stays as it is."""
    return replace(net, hidden=(width, width)) if isinstance(net, JointNetConfig) else net


def _has_slow_steps(choice: Choice) -> bool:
    """Return whether few envs, long windows and more passes over them pay."""
    return choice.library == "gymnasium" or choice.robot


def _rate(robot: bool) -> float:
    return 5e-4 if robot else 1e-3
