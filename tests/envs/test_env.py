"""The base protocol, on an env whose every number can be worked by hand."""

import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor
from toys.adder import ACT, AGENTS, ENVS, OBS, ZERO, Adder, Savable, box
from toys.reach import Reach

from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


class Forgetful(Adder):
    def detach(self) -> None:
        raise NotImplementedError


def started(**settings: float | int | None) -> Savable:
    env = Savable(**settings)  # type: ignore[arg-type]
    env.reset(seed=11)
    return env


def push(**envs: float) -> Tensor:
    """Zero action, but agent 0's two features are set in the envs named e0, e1, ..."""
    action = ZERO.clone()
    for name, value in envs.items():
        action[int(name[1:]), 0] = value
    return action


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            torch.zeros(ENVS, ACT),
            r"shape \(7, 2\); \(env, agent, act_dim\) = \(7, 3, 2\) is needed",
        ),
        (torch.zeros(AGENTS, ENVS, ACT), r"shape \(3, 7, 2\)"),
        (torch.zeros(ENVS, AGENTS, ACT, dtype=torch.long), r"dtype torch.int64; torch.float32"),
        (push(e5=float("nan")), r"not finite at \[env, agent, feature\] = \[5, 0, 0\]"),
        (push(e2=float("inf")), r"not finite at \[env, agent, feature\] = \[2, 0, 0\]"),
    ],
)
def test_wrong_action_is_refused_with_what_was_given_and_needed(action, message):
    with pytest.raises(UsageError, match=message):
        started().step(action)


def test_step_before_reset_is_refused():
    with pytest.raises(UsageError, match=r"call env\.reset"):
        Savable().step(ZERO)


@pytest.mark.parametrize("horizon", [0, -1])
def test_window_needs_a_step(horizon):
    with pytest.raises(UsageError, match=f"horizon is {horizon}; a window needs at least 1 step"):
        started().rollout(lambda obs: ZERO, horizon)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"agents": []}, "no agents"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"num_envs": 2.5}, "num_envs is 2.5; it must be a whole number"),
        ({"max_steps": 2.5}, "max_steps is 2.5; it must be a whole number"),
        ({"action_space": box(-np.inf, 1, ACT)}, "action box must be finite"),
        ({"action_space": box(-1, 1, 0)}, r"actions of .* = \(3, 0\) have no entries"),
        ({"observation_space": box(-1, 1, 0)}, "observations .*; give at least one number"),
    ],
)
def test_impossible_env_is_refused_at_construction(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    given = {
        "num_envs": ENVS,
        "agents": ["a", "b", "c"],
        "observation_space": box(-1, 1, OBS),
        "action_space": box(-1, 1, ACT),
    }
    with pytest.raises(UsageError, match=message):
        MultiAgentVectorEnv.__init__(Savable(), **(given | change))


def test_action_outside_the_box_acts_as_its_edge_and_has_no_gradient():
    env = started()
    before = env.current_obs
    action = push(e0=9.0, e1=0.25).requires_grad_()
    obs, reward, *_ = env.step(action)
    moved = (obs - before).detach()
    assert moved[0, 0, 0] == pytest.approx(1 + 1)
    assert moved[1, 0, 0] == pytest.approx(0.25 + 0.25)
    reward.sum().backward()
    assert action.grad[0, 0].tolist() == [0, 0]
    assert action.grad[1, 0].tolist() == [1, 1]


def test_a_reset_env_reports_its_last_observation_and_the_first_of_the_next_episode():
    env = started(goal=2.0)
    before = env.current_obs
    obs, reward, terminated, truncated, info = env.step(push(e2=1.0, e4=1.0))
    assert terminated.nonzero().flatten().tolist() == [2, 4]
    assert not truncated.any()
    torch.testing.assert_close(info["_final_obs"], terminated)
    torch.testing.assert_close(info["final_obs"][2, 0], before[2, 0] + 2)
    assert reward[2, 0] == info["final_obs"][2, 0, 0]
    assert (obs[terminated] < 1).all()  # fresh draws lie in [0, 1)
    assert (obs[terminated] != before[terminated]).any()
    assert torch.equal(obs[~terminated], info["final_obs"][~terminated])
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_terminated_env_gets_its_full_time_again():
    env = started(goal=2.0, max_steps=3)
    actions = iter([push(e2=1.0), ZERO, ZERO, ZERO])
    window = env.rollout(lambda obs: next(actions), 4)
    assert window.terminated[:, 2].tolist() == [True, False, False, False]
    assert window.truncated[:, 2].tolist() == [False, False, False, True]
    assert window.truncated[:, 3].tolist() == [False, False, True, False]


def test_window_axes_are_time_env_agent_feature():
    window = started().rollout(lambda obs: obs[..., :ACT], 11)
    assert window.horizon == 11
    assert window.obs.shape == window.next_obs.shape == (11, ENVS, AGENTS, OBS)
    assert window.action.shape == (11, ENVS, AGENTS, ACT)
    assert window.reward.shape == (11, ENVS, AGENTS)
    assert window.terminated.shape == window.truncated.shape == (11, ENVS)
    assert torch.equal(window.obs[1:], window.next_obs[:-1])
    assert not window.ended.any()  # there is no time limit


def test_window_keeps_the_action_the_policy_gave_not_the_clamped_one():
    window = started().rollout(lambda obs: torch.full_like(ZERO, 4.0), 2)
    assert (window.action == 4).all()


def test_rollout_keeps_the_graph_from_the_last_reward_to_the_first_action():
    env, gain = started(), torch.zeros((), requires_grad=True)
    window = env.rollout(lambda obs: gain.expand(ENVS, AGENTS, ACT), 5)
    (gradient,) = torch.autograd.grad(window.reward[-1, 0, 0], gain)
    assert gradient == 5 * ACT
    assert not window.detach().reward.requires_grad


def test_reset_cuts_the_graph_of_the_envs_that_were_reset():
    env, gain = started(goal=2.0), torch.zeros((), requires_grad=True)
    env.step(push(e2=1.0) + gain)
    _, reward, *_ = env.step(ZERO + gain)
    gradients = [torch.autograd.grad(reward[e, 0], gain, retain_graph=True)[0] for e in (2, 3)]
    assert gradients == [ACT, 2 * ACT]


def test_env_that_cannot_save_says_so():
    env = Forgetful()
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match="Forgetful cannot save its state"):
        env.state()


def test_real_env_has_nothing_to_learn_and_no_known_maximum():
    env = started()
    assert env.fit(env.rollout(lambda obs: ZERO, 1)) == {}
    assert env.max_return() is None


def test_step_counters_can_be_staggered_in_groups():
    env = Reach(num_envs=61)
    env.max_steps = 10
    env.reset(seed=0)
    env.randomise_episode_phase(torch.Generator().manual_seed(0), every=4)
    assert sorted(set(env.state()["steps"].tolist())) == [0, 4, 8]


def test_whole_episodes_are_reported_across_a_restored_state():
    """Returns are summed over steps and agents; of staggered first episodes nothing is told."""
    env = started(max_steps=4)
    env.randomise_episode_phase(torch.Generator().manual_seed(0))
    begun = env._episodes.steps == 0
    assert 0 < begun.sum() < ENVS
    sums, lengths, returns = torch.zeros(ENVS), torch.zeros(ENVS), []

    def take(steps: int) -> None:
        nonlocal sums, lengths
        for _ in range(steps):
            _, reward, _, truncated, _ = env.step(push(e1=0.5))
            sums, lengths = sums + reward.sum(-1), lengths + 1
            returns.extend(sums[truncated & (lengths == 4)].tolist())
            sums, lengths = (torch.where(truncated, 0.0, value) for value in (sums, lengths))

    take(2)
    state, other = env.state(), started(max_steps=4)
    other.set_state(state)
    report = env.episode_report()
    assert report == {}  # only episodes that began in the middle can have ended
    env = other
    take(4)
    report = env.episode_report()
    assert report["episode_length"] == 4
    assert report["episode_return"] == pytest.approx(sum(returns) / len(returns))
    assert len(returns) >= begun.sum()
    assert env.episode_report() == {}


def test_an_env_says_what_it_is_on_one_line():
    assert repr(started(max_steps=4)) == (
        "<Savable: num_envs=7, agents=3, obs_dim=5, act_dim=2, 4 steps>"
    )
    agent = SHAC(LearnedDiffWrapper(Reach()), SHACConfig(horizon=5))
    inside = repr(agent.env.env)
    assert inside.endswith(", 8 steps>")
    list(agent.iterations(1))
    assert repr(agent) == f"SHAC(LearnedDiffWrapper({inside}), {5 * agent.env.num_envs} env steps)"
