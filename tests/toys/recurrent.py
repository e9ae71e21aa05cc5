"""Trainers with memory that tests share, and the envs they train on."""

from dataclasses import replace
from typing import Any

from toys.reach import AGENTS, ENVS

from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.config import changed_to
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.nets.config import JointNetConfig

HORIZON = 6
KINDS = {"ppo": PPO, "ippo": IPPO, "mappo": MAPPO}
PLAIN = JointNetConfig(hidden=(8,), activation="tanh", layer_norm=False)


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=5)


def cartpole() -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=ENVS, max_steps=13)


def settings(kind: type[PPO] = PPO, gru_size: tuple[int, int] = (5, 9), **kwargs: Any) -> PPOConfig:
    """Memories of actor and critic; windows of 6 steps, of two envs to a minibatch."""
    start = kind.default_config()
    actor, critic = (
        changed_to(type(part.net), PLAIN, gru_size=width)
        for part, width in zip((start.actor, start.critic), gru_size, strict=True)
    )
    config = replace(
        start,
        horizon=HORIZON,
        actor=replace(start.actor, net=actor, head_gain=1.0),
        critic=replace(start.critic, net=critic),
        clip=replace(start.clip, epochs=2, batch_size=13),
    )
    return replace(config, **kwargs)
