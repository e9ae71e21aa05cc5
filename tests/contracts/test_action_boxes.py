"""The actions that an env gets lie in its box, whatever its bounds, and are of its dtype."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pettingzoo import ParallelEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor
from toys.trainers import off_policy

from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.wrappers.sb3.config import SB3SACConfig
from diffsurrogate.wrappers.sb3.off_policy import SB3SAC

ENVS = 2
BOXES = {
    "float64": Box(-0.1, 0.1, (3,), np.float64),
    "asymmetric": Box(np.array([0.1, -0.7, 1e-9]), np.array([0.3, -0.1, 1e5]), dtype=np.float64),
    "too tight for float32": Box(0.1, 0.1 + 1e-12, (3,), np.float64),
    "of one number": Box(0.1, 0.1, (3,), np.float64),
    "float16": Box(-0.1, 0.1, (3,), np.float16),
    "float32": Box(-0.1, 0.1, (3,), np.float32),
    "in a grid": Box(-0.1, 0.3, (2, 2), np.float64),
}  # fmt: skip


def refuse(box, action):
    if action.dtype != box.dtype or not box.contains(action):
        raise AssertionError(f"{action!r} is not in {box}")


def single(box):
    class Strict(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (1,)), box

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            refuse(box, action)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    return Strict


def pair(box):
    class Strict(ParallelEnv):
        metadata = {"name": "strict_v0"}  # noqa: RUF012
        possible_agents = ["a", "b"]  # noqa: RUF012

        def observation_space(self, agent):
            return Box(-1, 1, (1,))

        def action_space(self, agent):
            return box

        def reset(self, seed=None, options=None):
            self.agents = ["a", "b"]
            return {name: np.zeros(1, np.float32) for name in "ab"}, {name: {} for name in "ab"}

        def step(self, actions):
            for action in actions.values():
                refuse(box, action)
            no = dict.fromkeys("ab", False)
            return (
                {name: np.zeros(1, np.float32) for name in "ab"},
                dict.fromkeys("ab", 0.0),
                no,
                no,
                {name: {} for name in "ab"},
            )

    return Strict


class Native(MultiAgentVectorEnv):
    """Gets float32 actions, which a float64 box must contain."""

    def __init__(self, box):
        self.given = Box(box.low.reshape(1, -1), box.high.reshape(1, -1), dtype=box.dtype)
        super().__init__(
            num_envs=ENVS,
            agents=["a"],
            observation_space=Box(-1, 1, (1, 1)),
            action_space=self.given,
        )

    def _reset_all(self, seed: int | None) -> Tensor:
        return torch.zeros(ENVS, 1, 1)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = torch.as_tensor(self.given.low), torch.as_tensor(self.given.high)
        assert action.dtype == torch.float32
        assert ((action >= low) & (action <= high)).all(), action
        return torch.zeros(ENVS, 1, 1), torch.zeros(ENVS, 1), torch.zeros(ENVS, dtype=torch.bool)

    def detach(self) -> None:
        pass


WAYS = {
    "class": lambda box: as_multi_agent(single(box), num_envs=ENVS, max_steps=5),
    "SyncVectorEnv": lambda box: as_multi_agent(
        SyncVectorEnv([single(box)] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    ),
    "VecEnv": lambda box: as_multi_agent(DummyVecEnv([single(box)] * ENVS)),
    "PettingZoo": lambda box: as_multi_agent(pair(box), num_envs=ENVS, max_steps=5),
    "of our own": Native,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.filterwarnings("ignore:.*Box (low|high)'s precision lowered:UserWarning")
def test_actions_at_the_edge_and_of_a_policy_are_in_the_box(way, box):
    wide = bool((box.high - box.low > 1e-8).all())  # else no float32 is in it
    if way == "of our own" and not wide:
        return
    env = WAYS[way](box)
    env.reset(seed=0)
    shape = (ENVS, env.num_agents, env.act_dim)
    for value in (1e6, -1e6):
        env.step(torch.full(shape, value))
    agent = PPO(env, PPOConfig(horizon=8), seed=0).learn(16)
    action = agent.predict(env.current_obs).numpy()
    assert env.action_space.contains(action)
    lowest, highest = box.low.reshape(-1), box.high.reshape(-1)
    assert not wide or ((action >= lowest) & (action <= highest)).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*Box (low|high)'s precision lowered:UserWarning")
def test_actions_of_an_algorithm_that_rescales_them_itself_are_in_the_box(way):
    env = WAYS[way](BOXES["asymmetric"])
    agent = SB3SAC(env, off_policy(SB3SACConfig, horizon=16, learning_starts=16), seed=0).learn(64)
    assert agent.model._n_updates > 0
    obs = torch.linspace(-1e3, 1e3, 99)[:, None, None].expand(-1, env.num_agents, 1)
    for deterministic in (True, False):
        action = agent.predict(obs, deterministic).numpy()
        box = env.single_action_space
        assert ((action >= box.low) & (action <= box.high)).all()
