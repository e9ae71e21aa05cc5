"""PettingZoo's envs keep their numbers, their ends and their seeds behind our protocol."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3
from torch import Tensor
from toys.turnover import BOTH, SIZES, TERMINATE, TRUNCATE, lives

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make

ENVS = 7


def still(env: MultiAgentVectorEnv) -> Callable[[Tensor], Tensor]:
    return lambda obs: torch.zeros(env.num_envs, env.num_agents, env.act_dim)


def play(env: MultiAgentVectorEnv, steps: int) -> Any:
    env.reset(seed=0)
    return env.rollout(still(env), steps)


def test_smaller_actions_are_padded_and_padding_is_left_out():
    env = as_multi_agent(lives(*[(9, TERMINATE)] * 3))
    env.reset()
    assert env.valid_action_dims.sum(1).tolist() == [1, 2, 4]
    assert env.single_action_space.low.tolist() == [[-2, -1, -1, -1], [-2, -2, -1, -1], [-2] * 4]
    env.step(torch.tensor([[[4.0, 9, 9, 9], [1, -7, 9, 9], [0, 1, 2, -1]]]))
    assert {a: v.tolist() for a, v in env.raws[0].got.items()} == {
        "a": [3],
        "b": [1, -2],
        "c": [0, 1, 2, -1],
    }


def test_an_action_at_the_edge_of_a_float64_box_is_inside_it():
    narrow = spaces.Box(-0.1, 0.1, (4,), np.float64)  # float32 has no 0.1, only 1.5e-9 more
    env = as_multi_agent(lives(*[(9, TERMINATE)] * 3, c=narrow))
    env.reset()
    env.step(env.action_high[None])
    assert narrow.contains(env.raws[0].got["c"]) and env.raws[0].got["c"].dtype == np.float64
    assert env.raws[0].got["c"] == pytest.approx(0.1)


def test_the_largest_of_an_agents_own_choices_is_taken():
    choices = {a: spaces.Discrete(n, start=n) for a, n in SIZES.items()}
    env = as_multi_agent(lives(*[(9, TERMINATE)] * 3, **choices))
    assert env.discrete_actions
    assert (env.single_action_space.low == 0).all() and (env.single_action_space.high == 1).all()
    assert env.valid_action_dims.sum(1).tolist() == [2, 3, 5]
    env.reset()
    env.step(torch.tensor([[[0, 0, 0, 1.0, 0], [0.2, 0.3, 0.1, 0.9, 0], [0, 0, 0, 0, 1]]]))
    assert env.raws[0].got == {"a": 2, "b": 4, "c": 9}  # a one-hot in the padding is the first


@pytest.mark.parametrize(
    ("ends", "terminated"),
    [
        ([(2, TERMINATE), (3, TERMINATE), (3, TERMINATE)], True),
        ([(3, TRUNCATE), (3, TRUNCATE), (3, TRUNCATE)], False),
        ([(2, TERMINATE), (3, TRUNCATE), (3, TRUNCATE)], False),
        ([(2, TRUNCATE), (3, TERMINATE), (3, TERMINATE)], True),
        ([(3, TERMINATE), (3, TRUNCATE), (2, TERMINATE)], False),
        ([(3, BOTH), (3, TERMINATE), (1, TERMINATE)], True),
        ([(3, BOTH), (3, TRUNCATE), (1, TERMINATE)], False),
    ],
)
def test_a_world_terminates_if_all_who_were_left_do_and_else_is_truncated(ends, terminated):
    window = play(as_multi_agent(lambda: lives(*ends), num_envs=2), 5)
    ended = [[False] * 2, [False] * 2, [True] * 2, [False] * 2, [False] * 2]
    assert (window.terminated if terminated else window.truncated).tolist() == ended
    assert not (window.truncated if terminated else window.terminated).any()


def test_who_dies_early_observes_and_earns_zero_from_the_next_step_on():
    ends = [(4, TRUNCATE), (2, TERMINATE), (4, TRUNCATE)]
    env = as_multi_agent(lambda: lives(*ends), num_envs=2)
    window = play(env, 5)
    assert window.reward[:, 1].tolist() == [
        [100, 101, 102],
        [200, 201, 202],
        [300, 0, 302],
        [400, 0, 402],
        [100, 101, 102],
    ]
    assert window.next_obs[:, 1, :, 0].tolist() == [
        [-2, -12, -22],
        [-3, -13, -23],  # b's last, as the env gave it
        [-4, 0, -24],
        [-5, 0, -25],  # the final observation
        [-2, -12, -22],
    ]
    assert window.obs[4, 1, :, 0].tolist() == [-1, -11, -21]
    assert list(env.raws[0].got) == ["a", "b", "c"]
    assert env.single_observation_space.contains(window.next_obs[3, 1].numpy())


def test_who_comes_late_observes_zero_until_then():
    window = play(as_multi_agent(lives(*[(4, TRUNCATE)] * 3, late="b")), 4)
    assert window.obs[:, 0, 1, 0].tolist() == [0, 0, -13, -14]
    assert window.reward[:, 0, 1].tolist() == [0, 0, 301, 401]


def test_the_envs_own_time_limit_is_known_and_kept_if_it_is_shorter():
    def spread() -> Any:
        return simple_spread_v3.parallel_env(max_cycles=11)

    assert as_multi_agent(spread, num_envs=2).max_steps == 11
    assert as_multi_agent(spread, max_steps=3).max_steps == 3
    assert make("mpe2/simple_spread_v3", num_envs=1, max_steps=300).max_steps == 300
    raw = lives(*[(9, BOTH)] * 3)
    assert as_multi_agent(raw).max_steps is None
    raw.env = SimpleNamespace(max_cycles=5)  # where the family sisl has it
    assert as_multi_agent(raw).max_steps == 5


def test_parallel_and_aec_envs_and_functions_that_make_them_are_adapted():
    for raw, options in [
        (simple_spread_v3.parallel_env, {"num_envs": 3}),
        (simple_spread_v3.env, {"num_envs": 3}),
        (simple_spread_v3.parallel_env(), {}),
        (simple_spread_v3.env(), {}),
    ]:
        env = as_multi_agent(raw, seed=5, **options)
        assert (env.num_envs, env.max_steps) == (options.get("num_envs", 1), 25)
        assert env.discrete_actions
    same = make("mpe2/simple_spread_v3", num_envs=1, seed=5, continuous_actions=False)
    assert torch.equal(env.reset()[0], same.reset()[0])


def test_pettingzoos_own_envs_are_made_by_family_and_observations_flattened():
    env = make("pettingzoo/classic/rps_v2", num_envs=ENVS, num_actions=5, max_steps=4)
    obs, _ = env.reset()
    assert (env.agents, env.obs_dim, env.act_dim) == (["player_0", "player_1"], 6, 5)
    assert (obs.argmax(-1) == 5).all()  # no choice yet
    window = env.rollout(lambda obs: torch.eye(5)[torch.tensor([[2, 3]] * ENVS)], 4)
    assert (window.next_obs[0].argmax(-1) == torch.tensor([3, 2])).all()
    assert window.truncated[3].all() and not window.terminated.any()


def test_the_number_of_agents_has_its_own_name_here():
    assert make("mpe2/simple_spread_v3", num_envs=2, n_agents=5).num_agents == 5
