"""A VMAS env is VMAS, with time limits, padding, resets and randomness kept apart."""

import importlib.util
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import vmas as raw_vmas
from toys.by_hand import actions

from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.vmas import adapter as vmas
from diffsurrogate.wrappers.vmas.catalogue import scenario_names

ENVS, STEPS = 7, 50


def play(env, given):
    """Everything the env says in answer to the given actions, stacked over time."""
    return [torch.stack(said) for said in zip(*(env.step(a)[:4] for a in given), strict=True)]


def assert_same(first, second):
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    "name",
    ["dispersion", "transport", "balance", "discovery", "navigation", "drone", "simple_reference"],
)
def test_values_are_those_of_raw_vmas_bit_for_bit(name):
    """One-hot rows step VMAS as its own indices do: 9 forces in the plane, and what is said."""
    discrete = {"continuous_actions": False} if name == "simple_reference" else {}
    env = vmas.make(name, num_envs=ENVS, seed=3, **discrete)
    raw = raw_vmas.make_env(name, num_envs=ENVS, seed=3, **discrete)
    assert env.discrete_actions == bool(discrete)
    if discrete:
        counts = [int(space.n) for space in raw.action_space]
        assert env.single_action_space.shape == (len(counts), max(counts))
        assert env.valid_action_dims.sum(1).tolist() == counts
    obs, _ = env.reset(seed=5)
    assert torch.equal(obs, torch.stack(raw.reset(seed=5), dim=1))
    for action in actions(env, STEPS):
        if discrete:
            choices = [
                row[:, :n].argmax(-1) for row, n in zip(action.unbind(1), counts, strict=True)
            ]
            given = [choice.unsqueeze(1) for choice in choices]
            rows = [torch.nn.functional.one_hot(choice, max(counts)) for choice in choices]
            action = torch.stack(rows, dim=1).float()
        else:
            given = list(action.unbind(1))
        raw_obs, raw_reward, raw_done, _ = raw.step(given)
        next_obs, reward, terminated = env._advance(action)
        assert_same(
            (next_obs, reward, terminated),
            (torch.stack(raw_obs, 1), torch.stack(raw_reward, 1), raw_done),
        )


def test_making_with_a_seed_is_what_vmas_makes_of_that_seed():
    env = vmas.make("dispersion", num_envs=ENVS, seed=3)
    raw = raw_vmas.make_env("dispersion", num_envs=ENVS, seed=3)
    obs = torch.stack(raw.reset(), dim=1)
    assert torch.equal(env.reset()[0], obs)
    adapted = vmas.VmasEnv(raw_vmas.make_env("dispersion", num_envs=ENVS, seed=3))
    assert torch.equal(adapted.reset()[0], obs)


def test_a_failure_inside_vmas_leaves_randomness_as_it_was(monkeypatch):
    env = vmas.make("dispersion", num_envs=ENVS)
    env.reset()
    before = torch.get_rng_state()
    monkeypatch.setattr(env.scenario, "reward", lambda agent: 1 / 0)
    with pytest.raises(UsageError, match=r"VmasEnv._advance .* step 1 .*: ZeroDivisionError"):
        env.step(actions(env, 1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_reward_that_is_not_one_number_per_env_is_refused(monkeypatch):
    env = vmas.make("dispersion", num_envs=ENVS)
    env.reset()
    monkeypatch.setattr(env.scenario, "reward", lambda agent: torch.tensor(1.0))
    with pytest.raises(UsageError, match=rf"reward of agent '\S+' has shape \(\); .* \({ENVS},\)"):
        env.step(actions(env, 1)[0])


def test_the_time_limit_of_a_raw_env_is_taken_over():
    env = vmas.VmasEnv(raw_vmas.make_env("transport", num_envs=ENVS, max_steps=3))
    assert env.max_steps == 3
    env.reset(seed=1)
    _, _, terminated, truncated = play(env, actions(env, 4))
    assert not terminated.any()
    assert truncated[:, 0].tolist() == [False, False, True, False]
    with pytest.raises(UsageError, match="seed is -1; give a whole number"):
        env.reset(seed=-1)


def test_smaller_agents_are_padded_and_the_padding_does_nothing():
    env = vmas.make("simple_world_comm", num_envs=ENVS)
    obs, _ = env.reset(seed=1)
    assert env.valid_action_dims.sum(1).tolist() == [6, 2, 2, 2, 2, 2]  # the leader says 4 numbers
    assert env.observation_mask.sum(1).unique().numel() == 2
    assert not obs[:, ~env.observation_mask].any()
    assert env.action_low[0].tolist() == [-1, -1, 0, 0, 0, 0]
    state, given = env.state(), actions(env, 5)
    expected = play(env, given)
    env.set_state(state)
    assert_same(expected, play(env, torch.where(env.valid_action_dims, given, 0.5)))


def test_dict_spaces_and_dict_observations_are_flattened():
    given = {"num_envs": ENVS, "seed": 3, "n_agents": 3}
    lists = vmas.VmasEnv(raw_vmas.make_env("dispersion", **given))
    dicts = vmas.VmasEnv(raw_vmas.make_env("dispersion", dict_spaces=True, **given))
    assert torch.equal(lists.reset(seed=1)[0], dicts.reset(seed=1)[0])
    assert_same(play(lists, actions(lists, 5)), play(dicts, actions(dicts, 5)))

    football = {"num_envs": ENVS, "ai_red_agents": False, "n_blue_agents": 3, "n_red_agents": 2}
    nested = vmas.make("football", dict_obs=True, **football)
    flat = vmas.make("football", dict_obs=False, **football)
    assert nested.reset(seed=1)[0].shape == flat.reset(seed=1)[0].shape == (ENVS, 5, flat.obs_dim)
    assert torch.equal(nested.current_obs, flat.current_obs)


def test_a_rollout_in_inference_mode_can_be_followed_by_any_other():
    env = vmas.make("transport", num_envs=ENVS, n_agents=3, differentiable=True, max_steps=3)
    with torch.inference_mode():
        env.reset()
        play(env, actions(env, 5))
    action = actions(env, 1)[0].requires_grad_()
    env.step(action)[4]["final_obs"].sum().backward()
    assert action.grad.abs().sum() > 0


def test_a_reset_of_some_envs_cuts_their_graph_and_no_other():
    grads = []
    for mask in (torch.zeros(ENVS, dtype=torch.bool), torch.arange(ENVS) % 3 == 1):
        env = vmas.make("transport", num_envs=ENVS, n_agents=3, differentiable=True)
        env.reset(seed=1)
        action = actions(env, 1)[0].requires_grad_()
        env.step(action)
        if mask.any():
            env._reset_where(mask)
        obs = env.step(actions(env, 1)[0])[0]
        grads.append(torch.autograd.grad(obs.square().sum(), action)[0])
    assert torch.equal(grads[0][~mask], grads[1][~mask])
    assert not grads[1][mask].any() and grads[1][~mask].all()


def test_gradients_are_what_was_asked_for():
    assert vmas.make("transport", num_envs=ENVS).gradients == frozenset()
    assert vmas.make("dispersion", num_envs=ENVS, differentiable=True).gradients == {"dynamics"}
    env = vmas.make("transport", num_envs=ENVS)
    env.reset()
    action = actions(env, 1)[0].requires_grad_()
    assert not env.step(action)[0].requires_grad
    env.enable_gradients("dynamics", "reward")
    assert env.gradients == {"dynamics", "reward"} and env.step(action)[0].requires_grad
    env.disable_gradients()
    assert env.gradients == frozenset() and not env.step(action)[0].requires_grad
    with pytest.raises(UsageError, match=r"no reward gradient .* step function of position"):
        vmas.make("dispersion", num_envs=ENVS).enable_gradients("reward")
    with pytest.raises(UsageError, match="no gradients of use for road_traffic"):
        vmas.make("road_traffic", num_envs=ENVS, differentiable=True)


@pytest.mark.parametrize("wrapper", ["gym", "gymnasium", "gymnasium_vec"])
@pytest.mark.filterwarnings("ignore:The Gymnasium Vector wrapper currently does not:UserWarning")
def test_an_env_that_is_wrapped_for_another_library_is_taken_by_its_inside(wrapper):
    if wrapper != "gym":
        pytest.importorskip("shimmy")  # which VMAS's wrappers for Gymnasium need
    given = {"num_envs": 2 if wrapper == "gymnasium_vec" else 1, "n_agents": 2, "max_steps": 5}
    wrapped = raw_vmas.make_env(
        "navigation", wrapper=wrapper, terminated_truncated=wrapper != "gym", **given
    )
    env = as_multi_agent(wrapped)
    assert (env.num_envs, env.num_agents, env.max_steps) == (given["num_envs"], 2, 5)
    env.reset(seed=1)
    assert env.step(torch.zeros(env.num_envs, 2, 2))[3].tolist() == [False] * env.num_envs
    if wrapper != "gym":
        changed = gymnasium.wrappers.TransformReward(wrapped, lambda reward: reward)
        with pytest.raises(
            UsageError, match=r"around a vmas\S*Environment.* as_multi_agent\(env.unw"
        ):
            as_multi_agent(changed)


def test_several_choices_and_gradients_through_choices_are_refused():
    raw = raw_vmas.make_env(
        "transport", num_envs=ENVS, continuous_actions=False, multidiscrete_actions=True
    )
    with pytest.raises(UsageError, match="multidiscrete_actions=False"):
        vmas.VmasEnv(raw)
    with pytest.raises(UsageError, match="continuous_actions"):
        vmas.make("navigation", num_envs=ENVS, differentiable=True, continuous_actions=False)
    env = vmas.make("navigation", num_envs=ENVS, continuous_actions=False)
    with pytest.raises(UsageError, match="its actions are choices"):
        env.enable_gradients("dynamics")


def test_without_vmas_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vmas.simulator.environment", None)
    spec = importlib.util.spec_from_file_location("copy_of_adapter", Path(vmas.__file__))
    with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[vmas\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_frames_show_the_world_without_opengl():
    env = vmas.make("dispersion", num_envs=ENVS, n_agents=3)
    env.reset(seed=1)
    frames = env.render()
    assert len(frames) == ENVS and frames[0].dtype == np.uint8
    assert frames[0].shape == (400, 400, 3)
    agents, food = env.raw.world.agents, env.raw.world.landmarks
    for entity in agents + food:
        entity.state.pos = torch.full((ENVS, 2), 0.9)
    agents[0].state.pos = torch.tensor([[0.0, 0.55]]).repeat(ENVS, 1)
    (frame,) = env.render([3])
    assert frame[100, 200].tolist() == [160, 160, 223]  # blue (64, 64, 191) at half opacity
    assert (frame[300, 200] == 255).all()
    for item in food:
        item.is_rendering[3] = False
    assert not np.array_equal(frame, env.render([3])[0])
    assert "pyglet.gl" not in sys.modules


def test_every_scenario_has_a_name():
    assert len(scenario_names()) == 41
    assert vmas.make("mpe/simple", num_envs=2).agents == vmas.make("simple", num_envs=2).agents
