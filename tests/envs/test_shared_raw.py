"""One raw env has one adapter: an older one refuses to go on, instead of being moved unseen."""

import gymnasium
import pytest
import torch
from mpe2 import simple_spread_v3
from vmas import make_env

from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError


@pytest.mark.parametrize(
    "make_raw",
    [
        lambda: gymnasium.make("Pendulum-v1"),
        lambda: gymnasium.make_vec("Pendulum-v1", num_envs=3, vectorization_mode="sync"),
        lambda: simple_spread_v3.parallel_env(continuous_actions=True),
        lambda: make_env("simple_spread", num_envs=3, n_agents=2),
    ],
    ids=["env", "vector env", "parallel env", "vmas"],
)
def test_an_adapter_gives_up_when_its_raw_env_is_adapted_again(make_raw):
    raw = make_raw()
    older = as_multi_agent(raw)
    older.reset(seed=0)
    newer = as_multi_agent(raw)
    newer.reset(seed=0)
    action = torch.zeros(newer.num_envs, newer.num_agents, newer.act_dim)
    for use in (lambda: older.step(action), older.reset):
        with pytest.raises(UsageError, match="lost its raw env"):
            use()
    newer.step(action)


def test_envs_of_their_own_are_left_alone():
    one = as_multi_agent(gymnasium.make("Pendulum-v1"))
    one.reset(seed=0)
    as_multi_agent(gymnasium.make("Pendulum-v1"))
    one.step(torch.zeros(1, 1, 1))
