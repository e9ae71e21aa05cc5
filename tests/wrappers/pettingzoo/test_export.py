"""Our envs keep to PettingZoo's parallel API, with the numbers they have without it."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys.turnover import TERMINATE, TRUNCATE, lives

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.pettingzoo.export import ExportedEnv, as_pettingzoo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports an env in the old way
    from pettingzoo.test import parallel_api_test, parallel_seed_test


def spread() -> MultiAgentVectorEnv:
    return make("mpe2/simple_spread_v3", num_envs=1)


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=1, n_agents=3, max_steps=11)


def speaker() -> MultiAgentVectorEnv:
    return make("mpe2/simple_speaker_listener_v4", num_envs=1, continuous_actions=False)


def cartpole() -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=1)


def wrapped() -> MultiAgentVectorEnv:
    return LearnedDiffWrapper(make("vmas/simple_tag", num_envs=1, max_steps=7))


EXPORTS = [spread, dispersion, speaker, cartpole, wrapped]


def seed_actions(env: ExportedEnv) -> None:
    for index, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(42 + index)


def sample(env: ExportedEnv) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in env.agents}


@pytest.mark.parametrize("make_one", EXPORTS)
def test_it_passes_pettingzoos_own_tests(make_one: Callable[[], MultiAgentVectorEnv]):
    parallel_api_test(as_pettingzoo(make_one()), num_cycles=60)
    parallel_seed_test(lambda: as_pettingzoo(make_one()), num_cycles=13)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simple_spread_v3", {}),
        ("simple_spread_v3", {"continuous_actions": False, "N": 2, "max_cycles": 19}),
        ("simple_tag_v3", {"terminate_on_success": True}),
        ("simple_speaker_listener_v4", {}),
        ("simple_speaker_listener_v4", {"continuous_actions": False}),
        ("simple_adversary_v3", {"continuous_actions": False}),
    ],
)
def test_in_and_out_again_gives_the_bare_envs_numbers(name, options):
    """So what our adapter makes of them are the bare env's, too."""
    module = importlib.import_module(f"mpe2.{name}")
    raw = module.parallel_env(**({"continuous_actions": True} | options))
    env = as_pettingzoo(make(f"mpe2/{name}", num_envs=1, **options))
    assert env.possible_agents == raw.possible_agents
    obs, expected = env.reset(seed=3), raw.reset(seed=env_seeds(3, 1)[0])
    seed_actions(env)
    ends = {"terminations": 0, "truncations": 0}
    for _ in range(150):
        np.testing.assert_equal(obs, expected)
        actions = sample(env)
        answer, expected = env.step(actions), raw.step(actions)
        np.testing.assert_equal(answer[0], expected[0])
        rewards = {agent: np.float32(reward) for agent, reward in expected[1].items()}
        np.testing.assert_equal(answer[1:], (rewards, *expected[2:]))
        assert env.agents == raw.agents
        ends["terminations"] += all(answer[2].values())
        ends["truncations"] += all(answer[3].values())
        obs, expected = (answer[0], {}), (expected[0], {})
        if not env.agents:
            assert env.step({}) == ({}, {}, {}, {}, {})
            obs, expected = env.reset(), raw.reset()
    assert ends["truncations"] > 0
    assert (ends["terminations"] > 0) == ("terminate_on_success" in options)


def test_spaces_are_the_agents_own_without_padding():
    env = as_pettingzoo(as_multi_agent(lives(*[(2, TRUNCATE)] * 3)))
    assert [env.observation_space(agent).shape for agent in "abc"] == [(2,), (3,), (5,)]
    assert env.action_space("b") == spaces.Box(-2, 3, (2,), np.float32)
    obs, infos = env.reset()
    assert {agent: row.tolist() for agent, row in obs.items()} == {
        "a": [-1] * 2,
        "b": [-11] * 3,
        "c": [-21] * 5,
    }
    assert infos == {"a": {}, "b": {}, "c": {}}
    env.step({"a": [1], "b": [2, -1], "c": [0, 1, 2, 3]})
    assert env.env.raws[0].got["b"].tolist() == [2, -1]
    choosing = as_pettingzoo(speaker())
    assert choosing.action_space("speaker_0") == spaces.Discrete(3)
    assert choosing.action_space("listener_0") == spaces.Discrete(5)
    assert cartpole().discrete_actions
    assert as_pettingzoo(cartpole()).action_space("agent") == spaces.Discrete(2)


@pytest.mark.parametrize(("kind", "flags"), [(TERMINATE, (True, False)), (TRUNCATE, (False, True))])
def test_an_end_gives_the_observation_before_the_reset_and_then_no_agents(kind, flags):
    env = as_pettingzoo(as_multi_agent(lives((3, kind), (3, kind), (2, TERMINATE))))
    env.reset()
    for _ in range(2):
        obs, rewards, terminated, truncated, _ = env.step(sample(env))
        assert not any(terminated.values()) and not any(truncated.values())
        assert env.agents == ["a", "b", "c"]  # ours end together
    obs, rewards, terminated, truncated, infos = env.step(sample(env))
    assert [obs["a"][0], obs["b"][0], obs["c"][0]] == [-4, -14, 0]
    assert rewards == {"a": 300, "b": 301, "c": 0}
    assert terminated == dict.fromkeys("abc", flags[0])
    assert truncated == dict.fromkeys("abc", flags[1])
    assert infos == {"a": {}, "b": {}, "c": {}}
    assert env.agents == []
    assert env.reset()[0]["a"].tolist() == [-1, -1]
    assert env.agents == env.possible_agents


def test_it_can_be_drawn_and_closed():
    env = as_pettingzoo(as_multi_agent(lives(*[(9, TRUNCATE)] * 3)))
    env.reset()
    env.step(sample(env))
    assert env.render_mode == "rgb_array"
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert (env.render() == np.ones((2, 5, 3), np.uint8)).all()
    env.close()
    dark = as_pettingzoo(dispersion())
    dark.reset()
    dark.env.render = MultiAgentVectorEnv.render.__get__(dark.env)
    with pytest.raises(UsageError, match="no pictures"):
        dark.render()


def test_no_graph_is_kept():
    env = as_pettingzoo(make("vmas/navigation", num_envs=1, n_agents=2, differentiable=True))
    env.reset(seed=0)
    env.step(sample(env))
    assert not env.env.current_obs.requires_grad
    assert torch.is_grad_enabled()


def test_what_cannot_be_exported_or_done_is_refused():
    with pytest.raises(UsageError, match="num_envs is 2, but a PettingZoo env is a single world"):
        as_pettingzoo(make("diffsurrogate/cartpole-swingup", num_envs=2))
    env = as_pettingzoo(speaker())
    with pytest.raises(UsageError, match="not reset"):
        env.step({})
    env.reset()
    for actions, advice in [
        ({"speaker_0": 1}, r"actions of \['speaker_0'\]; exactly one of each"),
        ({"speaker_0": 1, "listener_0": 1, "x": 1}, "exactly one of each"),
        ({"speaker_0": 3, "listener_0": 1}, r"'speaker_0' is 3; its space is Discrete\(3\)"),
        ({"speaker_0": [1], "listener_0": 1}, r"'speaker_0' is \[1\]"),
    ]:
        with pytest.raises(UsageError, match=advice):
            env.step(actions)
    boxes = as_pettingzoo(as_multi_agent(lives(*[(9, TRUNCATE)] * 3)))
    boxes.reset()
    with pytest.raises(UsageError, match=r"'b' has shape \(3,\); its space is Box"):
        boxes.step({"a": [1], "b": [2, -1, 1], "c": [0, 1, 2, 3]})
