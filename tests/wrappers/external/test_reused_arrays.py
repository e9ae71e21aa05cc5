"""Envs that write every observation into one array: last observations are right, or refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError

ENVS, LENGTH = 2, 3


class Reuser(gymnasium.Env[Any, Any]):
    observation_space, action_space = Box(-9, 9, (1,)), Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.seen = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.seen += 1
        return self.seen, 1.0, False, bool(self.seen[0] >= LENGTH), {}


class Still(Reuser):
    """Sees the same wherever it is."""

    def step(self, action: Any) -> Any:
        return self.seen, 1.0, True, False, {}


def same_step(kind: Any = Reuser) -> Any:
    return SyncVectorEnv([kind] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.parametrize(
    "raw",
    [
        same_step,
        lambda: RecordEpisodeStatistics(same_step()),
        lambda: DummyVecEnv([Reuser] * ENVS),
        lambda: VecFrameStack(DummyVecEnv([Reuser] * ENVS), 2),
    ],
)
def test_last_observations_are_those_before_the_reset(raw):
    env = as_multi_agent(raw())
    env.reset(seed=0)
    for _ in range(LENGTH):
        info = env.step(torch.zeros(ENVS, 1, 1))[-1]
    assert (info["final_obs"][..., -1] == LENGTH).all()


def test_in_other_processes_they_are_refused():
    mode = AutoresetMode.SAME_STEP
    env = as_multi_agent(AsyncVectorEnv([Reuser] * ENVS, autoreset_mode=mode))
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"env 0 at step 3 is the first.*obs.copy\(\)"):
        for _ in range(LENGTH):
            env.step(torch.zeros(ENVS, 1, 1))
    env.close()


class Home(gymnasium.Env[Any, Any]):
    """Ends where it starts, in arrays of its own."""

    observation_space, action_space = Box(-9, 9, (1,)), Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        away = self.steps % LENGTH
        return np.full(1, away, np.float32), 1.0, away == 0, False, {}


@pytest.mark.parametrize("raw", [lambda: same_step(Home), lambda: DummyVecEnv([Home] * ENVS)])
def test_an_env_that_ends_where_it_starts_is_not(raw):
    env = as_multi_agent(raw())
    env.reset(seed=0)
    for _ in range(LENGTH):
        env.step(torch.zeros(ENVS, 1, 1))
    assert env.episode_report()["episode_length"] == LENGTH


def test_an_env_that_always_sees_the_same_is_not():
    env = as_multi_agent(same_step(Still))
    env.reset(seed=0)
    env.step(torch.zeros(ENVS, 1, 1))
