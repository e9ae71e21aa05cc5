"""Actions of several choices at once: an agent makes each."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from diffsurrogate.envs.registry import as_multi_agent

ENVS = 5


class Lock(gymnasium.Env[Any, Any]):
    """A lock of three wheels that pays for each that stands right."""

    observation_space = spaces.Box(-1, 1, (4,))
    action_space = spaces.MultiDiscrete([2, 5, 3], start=[1, 0, -1])
    code = (2, 3, -1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.steps += 1
        right = int((action == self.code).sum())
        obs = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return obs, float(right), False, self.steps == 6, {}


def locks(num_envs: int, **options: Any) -> Any:
    return as_multi_agent(Lock, num_envs=num_envs, seed=1, **options)


def sb3_locks() -> Any:
    return as_multi_agent(DummyVecEnv([Lock] * ENVS), seed=1)


@pytest.mark.parametrize("make_env", [lambda: locks(ENVS), sb3_locks])
def test_each_choice_is_an_agents(make_env):
    env = make_env()
    assert env.agents == ["choice_0", "choice_1", "choice_2"]
    assert env.valid_action_dims.tolist() == [[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]
    assert env.single_action_space.shape == (3, 5)
    assert env.discrete_actions
    obs, _ = env.reset()
    assert obs.shape == (ENVS, 3, 4)
    assert (obs == obs[:, :1]).all()
    assert not (obs == obs[:1]).all()
    action, right = torch.zeros(ENVS, 3, 5), torch.tensor([3.0, 2, 2, 2, 0])
    for index, wheels in enumerate([(1, 3, 0), (0, 3, 0), (1, 4, 0), (1, 3, 2), (0, 0, 1)]):
        action[index, torch.arange(3), torch.tensor(wheels)] = 1
    ends = 0
    for _ in range(7):
        obs, reward, terminated, truncated, info = env.step(action)
        torch.testing.assert_close(reward, (right / 3).unsqueeze(1).expand(ENVS, 3))
        assert (info["final_obs"] == info["final_obs"][:, :1]).all()
        assert not terminated.any()
        ends += int(truncated.sum())
    assert ends == ENVS
