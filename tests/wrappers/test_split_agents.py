"""Several agents that act as one."""

import pytest
import torch

from diffsurrogate import SHAC, LearnedDiffWrapper, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.split_agents import SplitAgents

SHARES = {"hip": [2], "back": [0, 3], "front": [5, 1, 4]}


def robot(num_envs: int = 3, **options):
    return make("gymnasium/HalfCheetah-v5", num_envs=num_envs, seed=4, max_steps=7, **options)


def test_the_robot_gets_the_joint_action_and_the_agents_its_numbers():
    whole, env = robot(), SplitAgents(robot(), SHARES, {"hip": [8, 0], "back": [3], "front": [16]})
    assert env.agents == ["hip", "back", "front"]
    assert env.single_action_space.shape == (3, 3)
    assert env.valid_action_dims.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert env.observation_mask.tolist() == [[1, 1], [1, 0], [1, 0]]
    joint_obs, _ = whole.reset(seed=9)
    obs, _ = env.reset(seed=9)
    generator = torch.Generator().manual_seed(0)
    ended = 0
    for _ in range(15):
        assert torch.equal(obs[:, 0], joint_obs[:, 0, [8, 0]])
        assert torch.equal(obs[:, 1, 0], joint_obs[:, 0, 3])
        assert torch.equal(obs[:, 2, 0], joint_obs[:, 0, 16])
        assert torch.equal(obs[:, 1:, 1], torch.zeros(3, 2))
        joint = 2 * torch.rand(3, 1, 6, generator=generator) - 1
        action = torch.full((3, 3, 3), 0.7)  # padding, which says nothing
        action[:, 0, :1] = joint[:, 0, [2]]
        action[:, 1, :2] = joint[:, 0, [0, 3]]
        action[:, 2] = joint[:, 0, [5, 1, 4]]
        joint_obs, joint_reward, *_, joint_info = whole.step(joint)
        obs, reward, terminated, truncated, info = env.step(action)
        torch.testing.assert_close(reward, joint_reward.expand(3, 3) / 3)
        final = info["final_obs"]
        assert torch.equal(final[:, 0], joint_info["final_obs"][:, 0, [8, 0]])
        assert torch.equal(info["_final_obs"], truncated)
        assert not terminated.any()
        ended += int(truncated.sum())
    assert ended == 2 * 3


def test_the_simulators_own_gradient_passes_through():
    options = {"num_envs": 5, "n_agents": 1, "seed": 2, "differentiable": True}
    whole = make("vmas/navigation", **options)
    env = SplitAgents(make("vmas/navigation", **options), {"y": [1], "x": [0]})
    joint = torch.linspace(-0.9, 0.9, 10).view(5, 1, 2).requires_grad_()
    action = joint.detach().flip(-1).view(5, 2, 1).requires_grad_()
    for one, given in ((whole, joint), (env, action)):
        one.reset(seed=3)
        one.step(given)
        one.step(given)[1].sum().backward()
    torch.testing.assert_close(action.grad, joint.grad.flip(-1).view(5, 2, 1))
    assert action.grad.abs().sum() > 0


def test_shac_trains_the_agents_and_their_state_comes_back():
    env = LearnedDiffWrapper(
        SplitAgents(make("vmas/navigation", num_envs=8, n_agents=1), {"x": [0], "y": [1]})
    )
    agent = SHAC(env, seed=1)
    agent.learn(total_steps=2 * agent.steps_per_iteration)
    assert agent.iteration == 2
    state = env.state()
    action = torch.zeros(8, 2, 1)
    first = env.step(action)[0]
    env.set_state(state)
    assert torch.equal(env.step(action)[0], first)


@pytest.mark.parametrize(
    ("actions", "observations", "says"),
    [
        ({}, None, "names no agents"),
        ({"a": [0, 1, 2]}, None, "each of 0 to 5"),
        ({"a": [0, 1, 2, 3], "b": [3, 4, 5]}, None, "each of 0 to 5"),
        ({"a": range(6), "b": []}, None, "nothing to do"),
        ({"a": range(6)}, {"b": [0]}, "name the same agents"),
        ({"a": range(6)}, {"a": [17]}, "0 to 16"),
        ({"a": range(6)}, {"a": [-1]}, "0 to 16"),
    ],
)
def test_shares_that_are_none_are_refused(actions, observations, says):
    with pytest.raises(UsageError, match=says):
        SplitAgents(robot(1), actions, observations)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UsageError, match="agents agent_0, agent_1 already"):
        SplitAgents(make("vmas/navigation", num_envs=2, n_agents=2), {"a": [0, 1]})
    with pytest.raises(UsageError, match="one choice"):
        SplitAgents(make("gymnasium/CartPole-v1", num_envs=2), {"a": [0], "b": [1]})


def test_models_of_the_undivided_agent_are_refused():
    with pytest.raises(UsageError, match="the other way round"):
        SplitAgents(LearnedDiffWrapper(robot(1)), {"a": range(6)})


def test_models_do_not_see_the_padding_of_actions():
    env = LearnedDiffWrapper(SplitAgents(robot(), SHARES))
    SHAC(env).learn(200)
    obs = env.current_obs
    action = torch.linspace(-0.9, 0.9, 27).view(3, 3, 3)
    other = action.where(env.valid_action_dims, 0.3).requires_grad_()
    assert not torch.equal(action, other)
    predicted = env.predict_step(obs, other)
    for one, same in zip(env.predict_step(obs, action), predicted, strict=True):
        assert torch.equal(one, same)
    (predicted[0].sum() + predicted[1].sum()).backward()
    assert not other.grad[:, ~env.valid_action_dims].any()
    assert other.grad[:, env.valid_action_dims].any()
