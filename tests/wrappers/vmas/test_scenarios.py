"""The paper's tasks pay, end and start as the paper says."""

import math

import pytest
import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.vmas import paper_tasks as paper

ENVS, AGENTS = 7, 3
STILL = torch.zeros(ENVS, AGENTS, 2)


def make(task, **options):
    env = paper.make(task, **{"num_envs": ENVS, "n_agents": AGENTS, **options})
    env.reset(seed=1)
    return env


def place(entity, x, y):
    entity.state.pos = torch.tensor([[x, y]]).repeat(ENVS, 1)


def test_dispersion_starts_evenly_on_a_small_circle():
    env = make("dispersion")
    assert env.current_obs.shape == (ENVS, AGENTS, 4 + 3 * AGENTS)
    side = 0.05 * math.sin(2 * math.pi / 3)
    expected = torch.tensor([[0.05, 0.0], [-0.025, side], [-0.025, -side]])
    torch.testing.assert_close(env.current_obs[:, :, :2], expected.expand(ENVS, -1, -1))


def test_dispersion_pays_one_per_food_shared_by_those_on_it_once():
    env = make("dispersion")
    agents, food = env.raw.world.agents, env.raw.world.landmarks
    place(food[0], 0.5, 0.5)
    place(food[1], -0.5, 0.5)
    place(food[2], 0.9, -0.9)
    place(agents[0], 0.5, 0.55)
    place(agents[1], 0.55, 0.5)
    place(agents[2], -0.5, 0.414)  # .086 away; the food is .05 and the agent .035 wide
    reward = env.step(STILL)[1]
    torch.testing.assert_close(reward, torch.tensor([[0.5, 0.5, 0.0]]).expand(ENVS, -1))
    assert not env.step(STILL)[1].any()
    assert env.max_return().tolist() == [3] * ENVS


def test_dispersion_ends_when_all_is_eaten():
    env = make("dispersion")
    for agent, food in zip(env.raw.world.agents, env.raw.world.landmarks, strict=True):
        food.state.pos = agent.state.pos.clone()
    obs, reward, terminated, truncated, info = env.step(STILL)
    assert terminated.all() and not truncated.any() and info["_final_obs"].all()
    assert reward.sum(1).tolist() == pytest.approx([3] * ENVS)
    assert info["final_obs"][..., [6, 9, 12]].all() and not obs[..., [6, 9, 12]].any()


def test_shared_food_pays_every_agent():
    env = make("dispersion", share_reward=True)
    for agent, food in zip(env.raw.world.agents, env.raw.world.landmarks, strict=True):
        food.state.pos = agent.state.pos.clone()
    maximum = env.max_return()
    reward = env.step(STILL)[1]
    assert reward.sum(1).tolist() == maximum.tolist() == [9] * ENVS


def test_transport_pays_for_coming_nearer_and_ends_on_the_goal():
    env = make("transport")
    package, goal = env.scenario.packages[0], env.scenario.packages[0].goal
    for agent in env.raw.world.agents:
        place(agent, -0.9, -0.9 + 0.3 * env.raw.world.agents.index(agent))
    place(goal, 0.5, 0.0)
    place(package, -0.5, 0.0)
    env.step(STILL)
    place(package, -0.4, 0.0)
    _, reward, terminated, *_ = env.step(STILL)
    torch.testing.assert_close(reward, torch.full((ENVS, AGENTS), 10.0), atol=1e-3, rtol=0)
    assert not terminated.any()
    place(package, 0.4, 0.0)
    _, reward, terminated, *_ = env.step(STILL)
    assert terminated.all() and not reward.any()
    assert env.current_obs.shape == (ENVS, AGENTS, 11) and package.mass == 10


def surface_gap(env):
    """Sphere of radius .15 to a box of side .15 that is not turned; VMAS keeps 1/150 apart."""
    package = env.scenario.packages[0]
    offset = (package.goal.state.pos - package.state.pos).abs() - 0.075
    return offset.clamp(min=0).norm(dim=1) - 0.15 - 1 / 150


def test_transport_maximum_is_a_hundred_per_agent_and_unit_of_gap():
    env = make("transport")
    first = env.max_return()
    torch.testing.assert_close(first, 100 * AGENTS * surface_gap(env), atol=0.01, rtol=0)
    env.step(STILL)
    mask = torch.tensor([True, False, False, True, False, False, False])
    env._reset_where(mask)
    torch.testing.assert_close(
        env.max_return()[mask], 100 * AGENTS * surface_gap(env)[mask], atol=0.01, rtol=0
    )
    assert torch.equal(env.max_return()[~mask], first[~mask])


def test_transport_gradient_is_that_of_finite_differences_in_every_window():
    env = make("transport", n_agents=1, differentiable=True)
    package, goal, agent = (
        env.scenario.packages[0],
        env.scenario.packages[0].goal,
        env.raw.agents[0],
    )
    place(goal, 0.9, 0.0)
    place(package, 0.0, 0.0)
    place(agent, -0.15, 0.02)
    forward = torch.tensor([0.7, 0.0]).expand(ENVS, 1, 2)
    for _ in range(13):  # until it pushes, past the jumps of first contact
        env.step(forward)
    env.detach()

    def window_return(action):
        return sum(env.step(action)[1].sum() for _ in range(5))

    nudge = torch.tensor([0.05, 0.0])
    for _ in range(3):
        before = env.state()
        action = forward.clone().requires_grad_()
        (grad,) = torch.autograd.grad(window_return(action), action)
        env.detach()
        after, ends = env.state(), []
        for sign in (1, -1):
            env.set_state(before)
            ends.append(window_return(forward + sign * nudge).item())
        env.set_state(after)
        assert grad[..., 0].sum().item() == pytest.approx((ends[0] - ends[1]) / 0.1, rel=0.01)
        assert grad[..., 0].sum() > 1


def test_the_paper_has_a_time_limit_and_no_other_tasks():
    assert make("transport").max_steps == 512
    with pytest.raises(UsageError, match="did you mean 'dispersion'"):
        paper.make("dispersoin")
