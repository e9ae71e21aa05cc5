"""PettingZoo's envs keep their numbers, their ends and their seeds behind our protocol."""

import importlib
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
from diffsurrogate.wrappers.external.adapter import env_seeds

ENVS = 7


def still(env: MultiAgentVectorEnv) -> Callable[[Tensor], Tensor]:
    return lambda obs: torch.zeros(env.num_envs, env.num_agents, env.act_dim)


def play(env: MultiAgentVectorEnv, steps: int) -> Any:
    env.reset(seed=0)
    return env.rollout(still(env), steps)


class Reference:
    """Bare parallel envs, stepped and reset by hand, padded by hand."""

    def __init__(self, make_one: Callable[[], Any], seed: int, limit: int) -> None:
        self.raws = [make_one() for _ in range(ENVS)]
        self.agents, self.limit, self.steps = self.raws[0].possible_agents, limit, [0] * ENVS
        seeds = env_seeds(seed, ENVS)
        self.obs = self.rows(
            [raw.reset(seed=s)[0] for raw, s in zip(self.raws, seeds, strict=True)]
        )

    def rows(self, obs: list[dict[str, Any]]) -> list[Any]:
        width = max(len(row) for row in obs[0].values())
        return [[[*row, *[0] * (width - len(row))] for row in one.values()] for one in obs]

    def step(self, actions: list[dict[str, Any]]) -> tuple[list[Any], ...]:
        stepped = [raw.step(action) for raw, action in zip(self.raws, actions, strict=True)]
        obs, reward, terminated, truncated, _ = map(list, zip(*stepped, strict=True))
        final = self.rows(obs)
        self.obs, self.steps = list(final), [count + 1 for count in self.steps]
        ends = [all(flags.values()) for flags in terminated]
        cuts = [all(flags.values()) for flags in truncated]
        for index, raw in enumerate(self.raws):
            cuts[index] |= self.steps[index] == self.limit
            if ends[index] or cuts[index]:
                self.obs[index] = self.rows([raw.reset()[0]])[0]
                self.steps[index] = 0
        return final, [list(one.values()) for one in reward], ends, cuts


@pytest.mark.parametrize(
    ("name", "options", "limit"),
    [
        ("simple_spread_v3", {}, 25),
        ("simple_spread_v3", {"continuous_actions": False, "N": 2, "max_cycles": 19}, 19),
        ("simple_tag_v3", {"terminate_on_success": True, "num_good": 1}, 13),
        ("simple_speaker_listener_v4", {}, 11),
        ("simple_speaker_listener_v4", {"continuous_actions": False}, 25),
        ("simple_adversary_v3", {"continuous_actions": False}, 17),
    ],
)
def test_values_and_ends_are_the_bare_envs_bit_for_bit(name, options, limit):
    module = importlib.import_module(f"mpe2.{name}")
    settings = {"continuous_actions": True} | options
    reference = Reference(lambda: module.parallel_env(**settings), 3, limit)
    cut_here = {} if limit == 25 or "max_cycles" in options else {"max_steps": limit}
    env = make(f"mpe2/{name}", num_envs=ENVS, seed=3, **options, **cut_here)
    assert (env.agents, env.max_steps) == (reference.agents, limit)
    obs, _ = env.reset()
    assert torch.equal(obs, torch.tensor(np.array(reference.obs, np.float32)))
    generator = torch.Generator().manual_seed(0)
    ends = torch.zeros(2, dtype=torch.long)
    sizes = env.valid_action_dims.sum(1).tolist()
    for _ in range(60):
        action = 1.4 * torch.rand(ENVS, env.num_agents, env.act_dim, generator=generator) - 0.2
        external_actions: list[dict[str, Any]] = []
        for rows in action if env.discrete_actions else action.clamp(0, 1):
            own = [row[:size].numpy() for row, size in zip(rows, sizes, strict=True)]
            given = [row.argmax() for row in own] if env.discrete_actions else own
            external_actions.append(dict(zip(env.agents, given, strict=True)))
        final, reward, terminated, truncated = reference.step(external_actions)
        obs, our_reward, our_terminated, our_truncated, info = env.step(action)
        assert torch.equal(info["final_obs"], torch.tensor(np.array(final, np.float32)))
        assert torch.equal(obs, torch.tensor(np.array(reference.obs, np.float32)))
        assert torch.equal(our_reward, torch.tensor(np.array(reward, np.float32)))
        assert our_terminated.tolist() == terminated
        assert our_truncated.tolist() == truncated
        assert torch.equal(info["_final_obs"], our_terminated | our_truncated)
        ends += torch.stack([our_terminated.sum(), our_truncated.sum()])
    assert ends[1] > 0
    assert (ends[0] > 0) == ("terminate_on_success" in options)


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
    assert env.raws[0].got["c"].tolist() == [0.1] * 4
    assert env.raws[0].got["c"].dtype == np.float64


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
    assert as_multi_agent(spread, max_steps=13).max_steps == 11
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
