"""A simulator that does not answer is named in the log, and named again ever more rarely."""

import logging
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from toys.reach import Reach

from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.envs.waiting import env_hangs, warn_of_hanging_envs
from diffsurrogate.errors import UsageError

AFTER = 0.04


@pytest.fixture(autouse=True)
def _soon():
    warn_of_hanging_envs(AFTER)
    yield
    warn_of_hanging_envs()


class Slow(Reach):
    """Takes 20 times as long as it may."""

    hung: bool = False

    def advance(self, state, action):
        time.sleep(20 * AFTER)
        self.hung = env_hangs()
        return super().advance(state, action)


def step(env, caplog):
    env.reset(seed=0)
    caplog.clear()  # on a busy machine a reset may take as long
    env.step(torch.zeros(env.num_envs, env.num_agents, env.act_dim))


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "diffsurrogate"]


def test_a_slow_step_is_named_at_growing_intervals(caplog):
    env = Slow()
    step(env, caplog)
    said = messages(caplog)
    assert 2 <= len(said) <= 5  # of 20 waits: after 1, 2, 4, 8 and 16 of them at the soonest
    assert said[0].startswith("waiting for Slow.step, 1 steps into an episode for")
    assert env.hung
    assert not env_hangs()


def test_no_warning_comes_of_a_fast_env_or_where_none_is_wanted(caplog):
    step(Reach(), caplog)
    warn_of_hanging_envs(None)
    env = Slow()
    step(env, caplog)
    assert messages(caplog) == []
    assert not env.hung


@pytest.mark.parametrize("after", [0.0, -1.0, float("nan")])
def test_a_time_that_is_none_is_refused(after):
    with pytest.raises(UsageError, match="above 0"):
        warn_of_hanging_envs(after)


class Sleeper(gymnasium.Env):
    """Its reset is quick; the copy at index 1 sleeps in its step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, index):
        self.index = index

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.index == 1:
            time.sleep(10 * AFTER)
        return np.zeros(2, np.float32), 0.0, False, False, {}


FACTORIES = [lambda index=index: Sleeper(index) for index in range(3)]


def test_the_copy_in_this_process_that_is_slow_is_named(caplog):
    factories = iter(FACTORIES)
    step(as_multi_agent(lambda: next(factories)(), num_envs=3), caplog)
    assert "Sleeper.step of env 1, 1 steps into" in messages(caplog)[0]


@pytest.mark.parametrize("kind", ["gymnasium", "sb3"])
def test_the_worker_that_is_slow_is_named(kind, caplog):
    if kind == "sb3":
        vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
        raw = vec_env.SubprocVecEnv(FACTORIES, start_method="fork")
    else:
        raw = AsyncVectorEnv(FACTORIES, autoreset_mode=AutoresetMode.SAME_STEP)
    env = as_multi_agent(raw)
    try:
        step(env, caplog)
    finally:
        env.close()
    named = f"AsyncVectorEnv.step of env 1 (process {raw.processes[1].pid})"
    if kind == "sb3":
        named = named.replace("AsyncVectorEnv", "SubprocVecEnv")
    assert any(named in message for message in messages(caplog))  # a late look may find it over
    assert all(record.levelno == logging.WARNING for record in caplog.records)
