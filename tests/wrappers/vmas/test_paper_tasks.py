"""The paper's tasks pay, end and start as the paper says, and as VMAS computes them.

Discovery and Sampling against the paper's public code (256 envs, 512 random steps, the same seeds,
n = 1, 3, 5): rewards and ends are equal, observations to 5e-6 (lidar on the edge of a target),
rewards of Sampling to the last bit. Its maxima are not: 7 for Discovery, where ours is 7 n; and for
Sampling .47 of ours in the mean over envs (.37 to 1.00; .45 as a ratio of means), whatever n, as it
divides every env by the largest density of all. Random actions earn more than that with 5 agents:
666 of its 587.
"""

import math

import pytest
import torch
from vmas.scenarios import dispersion

from diffsurrogate.wrappers.vmas import adapter as vmas
from diffsurrogate.wrappers.vmas import paper_tasks as paper
from diffsurrogate.wrappers.vmas import scenarios
from diffsurrogate.wrappers.vmas.lidar import distance_to_spheres

ENVS, AGENTS = 7, 3
STILL = torch.zeros(ENVS, AGENTS, 2)


LIDAR_ERROR = 2e-5  # VMAS's own, on the edge of a target


def make(task, **options):
    env = paper.make(task, **{"num_envs": ENVS, "n_agents": AGENTS, **options})
    env.reset(seed=1)
    return env


def place(entity, x, y):
    entity.state.pos = torch.tensor([[x, y]]).repeat(ENVS, 1)


def place_agents(env, *places):
    for agent, (x, y) in zip(env.raw.agents, places, strict=True):
        place(agent, x, y)


def actions(steps, *, agents=AGENTS, seed=3):
    """(step, env, agent, 2): pushes that last, so that agents get around."""
    generator = torch.Generator().manual_seed(seed)
    push = torch.rand(steps // 10 + 1, ENVS, agents, 2, generator=generator) * 2 - 1
    return push.repeat_interleave(10, dim=0)[:steps]


def play(env, given):
    """Observations, rewards and ends, stacked over time."""
    return [torch.stack(part) for part in zip(*(env.step(a)[:3] for a in given), strict=True)]


def discovery(**options):
    """One target at the origin and six far from it, where no agent is."""
    env = make("discovery", **options)
    for index, target in enumerate(env.scenario._targets):
        place(target, *((0.0, 0.0) if index == 0 else (0.9, 0.25 * index - 0.9)))
    return env


@pytest.mark.parametrize(
    ("places", "paid"),
    [
        ([(0.2, 0.0), (-0.9, 0.0), (-0.5, 0.5)], [0, 0, 0]),
        ([(0.2, 0.0), (-0.2, 0.0), (-0.5, 0.5)], [1, 1, 0]),
        ([(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2)], [1, 1, 1]),
        ([(0.2, 0.0), (-0.26, 0.0), (-0.5, 0.5)], [0, 0, 0]),
    ],
    ids=["one is not enough", "two cover it", "a third is paid too", "the second is .26 away"],
)
def test_discovery_pays_one_to_every_agent_at_a_covered_target(places, paid):
    env = discovery()
    place_agents(env, *places)
    reward = env.step(STILL)[1]
    assert torch.equal(reward, torch.tensor([paid]).expand(ENVS, -1).float())


def test_discovery_needs_one_agent_if_there_is_only_one():
    env = discovery(n_agents=1)
    place_agents(env, (0.2, 0.0))
    assert env.step(STILL[:, :1])[1].tolist() == [[1.0]] * ENVS
    assert env.max_return().tolist() == [7] * ENVS
    env = discovery(agents_per_target=3)
    place_agents(env, (0.2, 0.0), (-0.2, 0.0), (-0.5, 0.5))
    assert not env.step(STILL)[1].any()


def test_a_covered_target_goes_away():
    env = discovery()
    place_agents(env, (0.2, 0.0), (-0.2, 0.0), (-0.5, 0.5))
    env.step(STILL)
    assert (env.scenario._targets[0].state.pos < -9).all()
    _, reward, terminated, *_ = env.step(STILL)
    assert not reward.any() and not terminated.any()
    assert torch.equal(env.current_obs[..., 4:], torch.full((ENVS, AGENTS, 15), 0.35))


def test_discovery_ends_when_every_target_is_covered():
    env = discovery()
    for target in env.scenario._targets:
        place(target, 0.0, 0.0)
    place_agents(env, (0.2, 0.0), (-0.2, 0.0), (-0.5, 0.5))
    _, reward, terminated, truncated, _ = env.step(STILL)
    assert reward.tolist() == [[7, 7, 0]] * ENVS
    assert terminated.all() and not truncated.any()


@pytest.mark.parametrize(
    ("options", "paid", "maximum"),
    [
        ({}, 1.0, 21),
        ({"covering_rew_coeff": 0.5}, 0.5, 10.5),
        ({"shared_reward": True}, 1.5, 31.5),  # VMAS: everyone gets half of the sum, 3 / 2
        ({"n_targets": 5}, 1.0, 15),
        ({"targets_respawn": True}, 1.0, math.inf),
    ],
    ids=["paper", "coefficient", "shared", "five targets", "respawn"],
)
def test_discovery_maximum_is_all_agents_paid_for_all_targets(options, paid, maximum):
    env = discovery(**options)
    place_agents(env, (0.2, 0.0), (-0.2, 0.0), (0.0, 0.2))
    assert env.max_return().tolist() == [maximum] * ENVS
    assert env.step(STILL)[1].tolist() == [[paid] * AGENTS] * ENVS


def test_discovery_is_seen_by_fifteen_rays():
    env = discovery()
    place_agents(env, (-0.2, 0.0), (-0.9, -0.9), (-0.9, 0.9))
    obs = env.step(STILL)[0]
    assert obs.shape == (ENVS, AGENTS, 19)
    assert obs[:, 0, 4].tolist() == pytest.approx([0.15] * ENVS)  # the first ray points along x
    assert (obs[:, 0, 5:] == 0.35).all()  # the next is 24 degrees off, .2 sin(24°) > .05
    wide = make("discovery", use_agent_lidar=True)
    assert wide.obs_dim == 31


def test_the_lidars_gradient_is_right():
    generator = torch.Generator().manual_seed(0)
    radius = torch.tensor([0.3, 0.2, 0.4, 0.1, 0.2], dtype=torch.float64)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    angle = 3 * uniform(ENVS, 11)
    given = (uniform(ENVS, 2).requires_grad_(), uniform(ENVS, 5, 2).requires_grad_())

    def measure(origin, centre):
        return distance_to_spheres(origin, angle, centre, radius, max_range=0.9)

    assert 0 < (measure(*given) < 0.9).double().mean() < 1
    assert torch.autograd.gradcheck(measure, given)


def hill(**options):
    """Sampling with one Gaussian on the origin, a corner of the grid.

    Its peak is 1 / (2 π .05); at distance d an agent finds exp(-d² / (2 * .05)) of that.
    """
    env = make("sampling", n_gaussians=1, **options)
    env.scenario.locs[0] = torch.zeros(ENVS, 2)
    env.scenario.nomrlize_pdf()
    return env


def found(x, y):
    return math.exp(-10 * (x * x + y * y))


def test_sampling_pays_the_first_visit_of_a_cell():
    env = hill()
    torch.testing.assert_close(env.scenario.max_pdf, torch.full((ENVS,), 1 / (math.pi / 10)))
    place_agents(env, (0.203, 0.003), (0.01, 0.31), (-0.9, -0.9))
    once = found(0.203, 0.003) + found(0.01, 0.31) + found(-0.9, -0.9)
    reward, terminated = env.step(STILL)[1:3]
    torch.testing.assert_close(reward, torch.full((ENVS, AGENTS), once))
    assert not env.step(STILL)[1].any()
    place_agents(env, (0.253, 0.003), (0.04, 0.34), (-0.9, -0.9))  # the second stays in its cell
    obs, reward, *_ = env.step(STILL)
    torch.testing.assert_close(reward, torch.full((ENVS, AGENTS), found(0.253, 0.003)))
    around = obs[:, 0, 16:]
    torch.testing.assert_close(around[:, 0], torch.full((ENVS,), found(0.303, 0.003)))
    assert not around[:, 1].any() and around[:, 2:].all()  # (.203, .003) was visited
    assert not terminated.any() and obs.shape == (ENVS, AGENTS, 24)


def test_two_agents_in_one_cell_are_paid_once():
    env = hill(shared_rew=False)
    place_agents(env, (0.203, 0.003), (0.247, 0.047), (0.01, 0.31))
    paid = torch.tensor([found(0.203, 0.003), 0.0, found(0.01, 0.31)])
    torch.testing.assert_close(env.step(STILL)[1], paid.expand(ENVS, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "maximum"),
    [({}, 3 * 40 * math.pi), ({"shared_rew": False}, 40 * math.pi), ({"norm": False}, 3 * 400)],
    ids=["2 π .05 / .05² cells, for 3 agents", "for one", "1 / .05² cells"],
)
def test_sampling_maximum_is_the_density_of_all_cells(options, maximum):
    assert hill(**options).max_return().tolist() == pytest.approx([maximum] * ENVS, rel=1e-4)


def test_sampling_maximum_counts_only_cells_an_agent_can_enter():
    env = hill(agent_radius=0.09, cov=20.0)  # flat; up to x = .91, 38 of 40 cells in a row
    assert env.max_return().tolist() == pytest.approx([3 * 38 * 38] * ENVS, rel=0.03)


def test_sampling_gradient_is_the_slope_of_the_density():
    env = hill(n_agents=1, differentiable=True)
    assert env.gradients == {"dynamics", "reward"}
    place_agents(env, (0.21, 0.01))
    action = torch.zeros(ENVS, 1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(env.step(action)[1].sum(), action)
    slope = -found(0.21, 0.01) / 0.05 * torch.tensor([0.21, 0.01])  # times dx / da = dt² / mass
    torch.testing.assert_close(grad, (0.01 * slope).expand(ENVS, 1, 2), rtol=1e-4, atol=0)


def test_sampling_gradient_is_vmas_s():
    grads = []
    for maker in (paper.make, vmas.make):
        env = maker("sampling", num_envs=ENVS, n_agents=AGENTS, differentiable=True)
        obs, _ = env.reset(seed=1)
        given = actions(20).requires_grad_()
        total = 0
        for action in given:
            obs, reward, *_ = env.step(action)
            total = total + reward.sum() + obs[..., 16:].sum()
        grads += torch.autograd.grad(total, given)
    assert grads[0].abs().sum() > 1
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "agents"), [("discovery", 1), ("discovery", AGENTS), ("sampling", AGENTS)]
)
def test_values_are_vmas_s(task, agents):
    options = {"num_envs": ENVS, "n_agents": agents, "max_steps": 25}  # one reset
    vmas_options = {"targets_respawn": False, "agents_per_target": min(agents, 2)}
    theirs = vmas.make(task, **options, **(vmas_options if task == "discovery" else {}))
    ours = paper.make(task, **options)
    assert torch.equal(ours.reset(seed=1)[0][..., :4], theirs.reset(seed=1)[0][..., :4])
    given = actions(40, agents=agents)
    for mine, vmas_s in zip(play(ours, given), play(theirs, given), strict=True):
        torch.testing.assert_close(mine, vmas_s, rtol=0, atol=LIDAR_ERROR)
        lidar = slice(4, 19 if task == "discovery" else 16)
        if mine.ndim == 4:
            mine[..., lidar] = vmas_s[..., lidar]
        assert torch.equal(mine, vmas_s)


# --- Dispersion and Transport ---------------------------------------------------------------------


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


class DispersionByPairs(scenarios.Dispersion):
    """VMAS's own loops over agents and food."""

    reward = dispersion.Scenario.reward
    observation = dispersion.Scenario.observation


@pytest.mark.parametrize(
    ("agents", "options"),
    [(3, {}), (6, {"n_food": 5}), (4, {"share_reward": True}), (4, {"penalise_by_time": True})],
)
def test_dispersion_equals_vmas_s_to_the_bit(agents, options):
    made = {"num_envs": ENVS, "n_agents": agents, "max_steps": 40, **options}
    fast, pairs = paper.make("dispersion", **made), vmas.make(DispersionByPairs(), **made)
    assert torch.equal(fast.reset(seed=1)[0], pairs.reset(seed=1)[0])
    given = actions(120, agents=agents)
    ours, theirs = play(fast, given), play(pairs, given)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (ours[1] > 0).sum() > 10  # somebody ate
    assert fast.native_gradients == pairs.native_gradients == {"dynamics"}


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


def test_the_paper_has_a_time_limit():
    assert make("transport").max_steps == 512
