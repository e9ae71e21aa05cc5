"""The paper's robots on MJX: MuJoCo's numbers, finite differences' gradients, the paper's tasks.

MJX is imported in the tests, not with this file: that takes seconds.
"""

import functools
import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.registry import known_ids, make
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


def found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not (found("mujoco.mjx") and found("jax")), reason="needs the extra mjx"
)

ENVS = 5  # as in the contract's tests: each number is compiled for
SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "ant": (37, 8), "humanoid": (64, 17)}


@functools.cache
def hopper() -> Any:
    """Return one with gradients; every test resets it."""
    return make("mjx/hopper", num_envs=ENVS, differentiable=True)


def actions(steps: int, env: Any, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = 2 * torch.rand(steps, env.num_envs, 1, env.act_dim, generator=generator) - 1
    return drawn.requires_grad_(requires_grad)


def place(env: Any, q: Any, v: Any) -> None:
    """Put all copies where q and v say."""
    state = env.state()
    moving = dict(zip(("qacc_warmstart", "qpos", "qvel"), [0.0, q, v], strict=True))
    for leaf, value in zip(state["simulator"]["moving"], moving.values(), strict=True):
        leaf[:] = torch.as_tensor(value)
    env.set_state(state)


def test_every_robot_has_an_id():
    assert known_ids("mjx") == [f"mjx/{name}" for name in sorted([*SIZES, "humanoid-muscle"])]


def test_a_control_step_is_mujocos():
    import mujoco

    env = hopper()
    env.reset(seed=1)
    with torch.no_grad():
        for action in actions(10, env):  # until feet have landed
            env.step(action)
        before, action = env.raw_state, actions(1, env)[0]
        ended = env.step(action)[-1]["_final_obs"]
    model, worst, touched = env.model.__copy__(), 0.0, 0
    model.opt.iterations, model.opt.tolerance = 100, 1e-10
    data = mujoco.MjData(model)
    for copy in range(ENVS):
        data.qpos[:], data.qvel[:] = before["qpos"][copy], before["qvel"][copy]
        data.ctrl[:] = action[copy, 0]
        for _ in range(8):
            mujoco.mj_step(model, data)
            touched += data.ncon
        worst = max(worst, np.abs(data.qvel - np.asarray(env.raw_state["qvel"][copy])).max())
    assert model.opt.timestep * 8 == pytest.approx(1 / 60)
    assert touched > 0
    assert not ended.any()
    assert worst < 1e-4


def test_the_gradient_of_a_step_equals_finite_differences_in_contact():
    """In float32, along random directions of the action, at the same feet on the ground."""
    env = hopper()
    env.reset(seed=1)
    place(env, [0, 1.2, 0.1, -0.1, -0.1, 0.1], [0.3, 0, 0, 0.1, -0.1, 0.2])
    state = env.state()
    action = 0.2 * actions(1, env)[0]
    towards = actions(2, env)[1]

    def value(action: Tensor) -> Tensor:
        env.set_state(state)
        obs, reward, *_ = env.step(action)
        return (reward[:, 0] + obs[:, 0, 5:].sum(-1)).double()

    moved = action.clone().requires_grad_()
    value(moved).sum().backward()
    exact = (moved.grad * towards).sum((1, 2)).double()
    with torch.no_grad():
        numeric = (value(action + 0.02 * towards) - value(action - 0.02 * towards)) / 0.04
    torch.testing.assert_close(exact, numeric, rtol=0.02, atol=0.02)
    assert exact.abs().min() > 0.1


def test_contacts_are_those_with_the_floor():
    env = hopper()
    env.reset(seed=1)
    standing, flying = [0, 1.2, 0, 0, 0, 0], [0, 1.5, 0, 0, 0, 0]  # 1 cm into the floor, and above
    place(env, [standing, flying, standing, flying, flying], 0.0)
    assert env.contacts().tolist() == [True, False, True, False, False]


@pytest.mark.slow
def test_gradients_pass_in_and_out_of_contact():
    report = check_gradients(hopper())
    assert (report.horizon, report.warmup) == (1, 30)
    assert report.passed, report


def test_hoppers_reward_is_equations_15_to_18():
    env = hopper()
    env.reset(seed=1)
    for action in actions(3, env):
        obs, reward, *_ = env.step(action)
        h, angle, speed = obs[:, 0, 0], obs[:, 0, 1], obs[:, 0, 5]
        above = (h + 0.3).clamp(-1, 0.3)
        height = torch.where(above < 0, -200 * above**2, above)
        expected = speed + height + 1 - (angle / math.radians(30)) ** 2
        expected = expected - 0.1 * action[:, 0].square().sum(-1)
        torch.testing.assert_close(reward[:, 0], expected)
        assert torch.equal(obs[:, 0, 0], torch.from_dlpack(env.raw_state["qpos"])[:, 1] - 1.25)


def test_it_ends_where_it_falls_or_after_a_thousand_steps():
    env = hopper()
    assert env.max_steps == 1000
    env.reset(seed=1)
    place(env, [0, 0.7, 1.5, 0, 0, 0], 0.0)  # lying in the air
    _, _, terminated, truncated, _ = env.step(torch.zeros(ENVS, 1, 3))
    assert terminated.all()
    assert not truncated.any()


def test_starts_are_drawn_around_the_robots_own_pose():
    env = hopper()
    env.reset(seed=1)
    off = np.asarray(env.raw_state["qpos"]) - np.array([0, 1.25, 0, 0, 0, 0])
    assert 0.02 < np.abs(off).max() <= 0.05
    assert len(np.unique(off)) == off.size


def test_a_saved_state_goes_on_to_the_same_bits():
    env = hopper()
    env.reset(seed=1)
    env.step(actions(1, env)[0])
    env.detach()
    state, runs = env.state(), []
    for _ in range(2):
        with torch.no_grad():
            runs.append([env.step(action)[0] for action in actions(4, env)])
        env.set_state(state)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_a_copy_that_blows_up_is_reset_and_costs_the_others_nothing():
    env = hopper()
    env.reset(seed=1)
    state = env.state()
    state["simulator"]["moving"][2][3] = torch.nan  # the velocity of copy 3
    env.set_state(state)
    with pytest.raises(UsageError, match=r"the observation of env 3 .* is not finite"):
        env.step(torch.zeros(ENVS, 1, 3))
    env.set_state(state)
    acts = actions(2, env, requires_grad=True)
    before = int(env.gradient_guard.dropped)
    with env.restarting_broken():
        _, paid, _, truncated, _ = env.step(acts[0])
        _, later, *_ = env.step(acts[1])
    (paid.sum() + later.sum()).backward()
    assert truncated.tolist() == [False, False, False, True, False]
    assert acts.grad.isfinite().all()
    assert acts.grad[0, 3].eq(0).all()
    assert acts.grad[:, :3].ne(0).any(-1).all()
    assert int(env.gradient_guard.dropped) == before + 1


def test_stiffer_contacts_need_no_new_compilation():
    env = hopper()
    compiled = env._simulation.compiled
    env.reset(seed=1)
    env.step(torch.zeros(ENVS, 1, 3))[1].sum()
    count = compiled.advance._cache_size()
    stiff = make("mjx/hopper", num_envs=ENVS, stiffness=20.0, rigid=True)
    assert stiff._simulation.compiled is compiled
    stiff.reset(seed=1)
    stiff.step(torch.zeros(ENVS, 1, 3))
    assert compiled.advance._cache_size() == count
    assert stiff.model.geom_solref[:, 0] == pytest.approx(0.02 / math.sqrt(20))
    for one in (env, stiff):
        place(one, [0, 1.2, 0, 0, 0, 0], 0.0)  # 1 cm into the floor
        one.step(torch.zeros(ENVS, 1, 3))
    pushed = [one.raw_state["qvel"][0, 1] for one in (env, stiff)]
    assert pushed[1] > pushed[0] + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stiffness": 100.0}, "a time constant of 0.002 s, .* give substeps=17, or .* at most 23"),
        ({"stiffness": -1.0}, "a finite number above 0"),
        ({"substeps": 0}, "at least 1"),
        ({"substeps": 2.5}, "substeps is 2.5; it must be a whole number"),
        ({"stifness": 2.0}, "does not take stifness; .*did you mean 'stiffness'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(UsageError, match=message):
        make("mjx/hopper", **options)


def test_an_unknown_robot_is_refused():
    with pytest.raises(UsageError, match=r"unknown env mjx/hoper; .*did you mean 'hopper'"):
        make("mjx/hoper")


@pytest.mark.parametrize("robot", SIZES)
def test_observations_start_and_reward_of_every_robot(robot):
    """At its own pose, by hand; nothing is simulated."""
    import jax
    import jax.numpy as jnp

    from diffsurrogate.wrappers.mjx.robots import Contact, load
    from diffsurrogate.wrappers.mjx.tasks import TASKS

    task = TASKS[robot]
    model = load(task.file, task.substeps, Contact())
    q, v = task.start(jax.random.PRNGKey(0), jnp.asarray(model.qpos0), model.nv)
    assert (q.shape, v.shape) == ((model.nq,), (model.nv,))
    assert not task.fallen(q)
    last = jnp.ones(model.nu)
    obs = task.observe(q, v, last)
    assert (len(obs), model.nu) == SIZES[robot]
    assert (model.actuator_ctrlrange[:, 0] == -model.actuator_ctrlrange[:, 1]).all()
    rest, still = jnp.asarray(model.qpos0), jnp.zeros(model.nv).at[0].set(2.0)
    paid = {
        "hopper": 2 + 0.3 + 1 - 0.3,
        "halfcheetah": 2 - 0.6,
        "ant": 2 + 0.1 + 1 + 0.75 - 0.27,
        "humanoid": 2 + 0.1 + 1 + 1 - 0.034,
    }
    assert float(task.reward(rest, still, last)) == pytest.approx(paid[robot], rel=1e-5)
    if robot in ("ant", "humanoid"):  # rolled by 90° about x: its up lies flat, it looks along x
        rolled = rest.at[3:7].set(jnp.array([1.0, 1.0, 0.0, 0.0]) / math.sqrt(2))
        assert [float(x) for x in task.directions(rolled)] == pytest.approx([0, 1], abs=1e-6)
        assert task.fallen(rest.at[2].set(task.lowest - 0.01))


@pytest.mark.parametrize("learned", [False, True], ids=["shac", "shac++"])
def test_shac_trains_on_it(learned):
    env = LearnedDiffWrapper(make("mjx/hopper", num_envs=ENVS)) if learned else hopper()
    config = SHACConfig.hybrid(ENVS, learned=learned, articulated=True)
    config = replace(config, horizon=8)
    agent = SHAC(env, config, seed=0)
    agent.learn(config.horizon * ENVS, progress_bar=False)
    assert env.articulated


def test_accelerations_are_the_minimum_and_so_is_their_derivative():
    """A mass of 2 kg pushed by 3 N against two springs, of which one is out of reach, by hand."""
    import jax
    import jax.numpy as jnp

    from diffsurrogate.wrappers.mjx.solver import constrained_acceleration

    def pushed(force: Any, guess: float) -> Any:
        rows, stiffness = jnp.array([[1.0], [1.0]]), jnp.array([4.0, 4.0])
        problem = jnp.array([[2.0]]), force[None], rows, stiffness, jnp.array([3.0, -9.0])
        return constrained_acceleration(*problem, jnp.array([guess]))

    for guess in (0.0, 50.0, -50.0):  # 2 a - 3 + 4 (a - 3) = 0
        (acceleration,), (push,) = pushed(jnp.asarray(3.0), guess)
        assert float(acceleration) == pytest.approx(2.5)
        assert float(push) == pytest.approx(2.0)
        slope = jax.grad(lambda force, guess=guess: pushed(force, guess)[0][0])(3.0)
        assert float(slope) == pytest.approx(1 / 6)


def test_small_systems_are_solved_as_numpy_solves_them():
    import jax.numpy as jnp

    from diffsurrogate.wrappers.mjx.solver import solve_positive

    random = np.random.default_rng(0)
    root, right = random.normal(size=(7, 7)), random.normal(size=7)
    matrix = root @ root.T + 0.1 * np.eye(7)
    found = solve_positive(jnp.asarray(matrix, jnp.float32), jnp.asarray(right, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_nothing_is_printed():
    code = "from diffsurrogate import make; make('mjx/hopper')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == b""


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["halfcheetah", "ant", "humanoid"])
def test_every_robot_steps_and_has_a_gradient(robot):
    env = make(f"mjx/{robot}", num_envs=2, differentiable=True)
    env.reset(seed=0)
    acts = (0.3 * actions(4, env)).requires_grad_()
    total = 0
    for action in acts:
        obs, reward, *_ = env.step(action)
        total = total + reward.sum()
    total.backward()
    assert obs.shape == (2, 1, SIZES[robot][0])
    assert acts.grad.isfinite().all()
    assert acts.grad.ne(0).any(-1).all()
    assert int(env.gradient_guard.dropped) == 0


def test_pictures_show_each_robot_where_it_stands():
    env = make("mjx/hopper", num_envs=ENVS)
    with pytest.raises(UsageError, match="not reset"):
        env.render()
    env.reset(seed=0)
    try:
        frames = env.render()
    except UsageError as error:
        assert "OpenGL" in str(error)
        pytest.skip("no OpenGL here")
    assert len(frames) == ENVS
    assert all((f.shape, f.dtype) == ((240, 320, 3), np.uint8) for f in frames)
    (again,) = env.render([1])
    assert np.array_equal(again, frames[1])
    assert not np.array_equal(frames[0], frames[1])
