"""Muscles in place of motors: MuJoCo's numbers, finite differences' gradients, and the task's.

What needs a simulation is tested on an arm of one joint, which compiles in seconds; gradients of
whole steps, and the humanoid, are slow. MJX is imported in the tests, not with this file.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffsurrogate import make, recommended
from diffsurrogate.cli.reproduce.shac import SHAC_CURVES
from diffsurrogate.gradients.finite_differences import check_gradients

pytest.importorskip("mujoco.mjx", reason="needs the extra mjx", exc_type=ImportError)

ENVS = 5
ARM = """
<mujoco>
  <worldbody>
    <body>
      <joint name="elbow" axis="0 1 0" range="-90 60" limited="true" damping=".1" armature=".01"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.4" size=".04"/>
    </body>
  </worldbody>
  <actuator><motor joint="elbow" name="elbow" gear="50" ctrlrange="-.4 .4"/></actuator>
</mujoco>
"""


@pytest.fixture(scope="module")
def make_arm(tmp_path_factory) -> Any:
    """Return a function that makes copies of the arm, which show position, speed, activations."""
    import jax.numpy as jnp

    from diffsurrogate.wrappers.mjx.ids import MJXEnv
    from diffsurrogate.wrappers.mjx.tasks import TASKS, HumanoidMuscle

    path: Path = tmp_path_factory.mktemp("arm") / "arm.xml"
    path.write_text(ARM)

    class Arm(HumanoidMuscle):
        file, substeps = str(path), 5

        def start(self, key: Any, rest: Any, size: int) -> tuple[Any, Any]:
            return rest - 0.3, jnp.full(size, 0.5)

        def observe(self, q: Any, v: Any, last: Any) -> Any:
            return jnp.concatenate([q, v, last])

        def reward(self, q: Any, v: Any, action: Any) -> Any:
            return v[0]

        def fallen(self, q: Any) -> Any:
            return jnp.asarray(False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "arm", Arm())
        yield functools.cache(lambda **options: MJXEnv("arm", num_envs=ENVS, **options))


@pytest.fixture
def arm(make_arm) -> Any:
    env = make_arm()
    env.reset(seed=1)
    return env


def actions(steps: int, env: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(steps, env.num_envs, 1, env.act_dim, generator=generator) - 1


def off_from_mujoco(env: Any, action: Tensor) -> dict[str, float]:
    """Take a step, and return how far each part of the state is from MuJoCo's, at most."""
    import mujoco

    before = env.raw_state
    with torch.no_grad():
        assert not env.step(action)[-1]["_final_obs"].any()
    after, model = env.raw_state, env.model.__copy__()
    model.opt.iterations, model.opt.tolerance = 100, 1e-10
    data, off = mujoco.MjData(model), dict.fromkeys(("qpos", "qvel", "act"), 0.0)
    for copy in range(env.num_envs):
        for name in off:
            getattr(data, name)[:] = before[name][copy]
        data.ctrl[:] = (1 + action[copy, 0]) / 2
        for _ in range(5):
            mujoco.mj_step(model, data)
        for name in off:
            difference = np.abs(getattr(data, name) - np.asarray(after[name][copy])).max()
            off[name] = max(off[name], difference)
    return off


def test_a_control_step_is_mujocos_with_its_activations(arm):
    for action in actions(3, arm):
        off = off_from_mujoco(arm, action)
        assert off == pytest.approx(dict.fromkeys(off, 0.0), abs=2e-5)
    activations = np.asarray(arm.raw_state["act"])
    assert 0 <= activations.min() < 0.3
    assert 0.7 < activations.max() <= 1


def test_a_saved_state_has_its_activations(arm):
    assert not np.asarray(arm.raw_state["act"]).any()
    arm.step(actions(1, arm)[0])
    state, activations = arm.state(), np.asarray(arm.raw_state["act"])
    assert (activations > 0).all()
    runs = []
    for _ in range(2):
        runs.append(torch.stack([arm.step(action)[0] for action in actions(3, arm)]))
        arm.set_state(state)
    assert torch.equal(*runs)
    assert np.array_equal(arm.raw_state["act"], activations)


def test_pull_and_change_of_activation_have_finite_differences_gradients(make_arm):
    """MJX's is NaN where MuJoCo's time constants of muscles are not smoothed, as by default."""
    import jax
    import jax.numpy as jnp
    from mujoco import mjx

    env = make_arm()
    model = mjx.put_model(env.model)
    data = mjx.make_data(env.model).replace(actuator_length=jnp.array([0.2, -0.2]))

    @jax.jit
    def answer(told: Any) -> Any:
        after = mjx.fwd_actuation(model, data.replace(ctrl=told[:2], act=told[2:]))
        return after.actuator_force.sum() + after.act_dot @ jnp.array([1.0, 2.0])

    exact = jax.grad(answer)
    here = np.array([0.3, 0.9, 0.8, 0.2], np.float32)  # one falls, one rises
    steps = 1e-3 * np.eye(4, dtype=np.float32)
    numeric = [(answer(here + step) - answer(here - step)) / 2e-3 for step in steps]
    np.testing.assert_allclose(exact(here), numeric, rtol=0.01, atol=0.1)


@pytest.mark.slow
def test_gradients_of_two_steps_equal_finite_differences(make_arm):
    """In float32; the first action reaches the second step through the state alone."""
    env = make_arm(differentiable=True)
    env.reset(seed=1)
    env.step(actions(1, env)[0])
    env.detach()
    state, acts = env.state(), 0.8 * actions(4, env)
    here, towards = acts[:2].requires_grad_(), acts[2:]

    def value(acts: Tensor) -> Tensor:
        env.set_state(state)
        env.step(acts[0])
        obs = env.step(acts[1])[0]
        return (obs[:, 0] * torch.linspace(1, 2, obs.shape[-1])).sum(-1)

    value(here).sum().backward()
    exact = (here.grad * towards).sum((0, 2, 3))
    with torch.no_grad():
        numeric = (value(here + 0.01 * towards) - value(here - 0.01 * towards)) / 0.02
    torch.testing.assert_close(exact, numeric, rtol=5e-3, atol=5e-3)
    assert here.grad.ne(0).all()


def test_a_muscle_only_pulls_and_no_harder_than_its_motor_turned():
    import mujoco

    from diffsurrogate.wrappers.mjx.robots import Contact, load

    motors, model = (load("humanoid.xml", 5, Contact(), muscles=given) for given in (False, True))
    assert (motors.nu, model.nu, model.na) == (17, 34, 34)
    most = (motors.actuator_ctrlrange[:, 1] * motors.actuator_gear[:, 0]).repeat(2)
    data, random = mujoco.MjData(model), np.random.default_rng(0)
    lower, upper = model.jnt_range[model.actuator_trnid[:, 0]].T
    pose, speed = (at[model.actuator_trnid[:, 0]] for at in (model.jnt_qposadr, model.jnt_dofadr))
    for _ in range(50):
        data.qpos[pose] = random.uniform(lower, upper)
        data.qvel[speed] = random.normal(size=34)
        data.act[:] = random.uniform(size=34)
        mujoco.mj_forward(model, data)
        torque = model.actuator_gear[:, 0] * data.actuator_force
        assert (torque[::2] <= 0).all()  # the first of each pair lowers the angle
        assert (torque[1::2] >= 0).all()
        assert (np.abs(torque) <= 1.22 * most).all()  # 1.2 where stretched fast, .02 unasked
        np.testing.assert_allclose(data.qfrc_actuator[speed[::2]], torque[::2] + torque[1::2])
    data.qvel[:], data.act[:] = 0, 1
    data.qpos[pose] = lower + 5 / 6 * (upper - lower)  # where muscles that lower are strongest
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(-data.actuator_force[::2], most[::2])


def test_excitations_observations_end_and_reward():
    """At its own pose, by hand; nothing is simulated."""
    import jax

    from diffsurrogate.wrappers.mjx.robots import Contact, load
    from diffsurrogate.wrappers.mjx.tasks import TASKS

    task = TASKS["humanoid-muscle"]
    model = load(task.file, task.substeps, Contact(), muscles=True)
    observe, reward = jax.jit(task.observe), jax.jit(task.reward)
    rest, still = model.qpos0.astype(np.float32), np.zeros(model.nv, np.float32)
    still[0] = 2
    obs = observe(rest, still, np.arange(34.0, dtype=np.float32))
    assert len(obs) == 1 + 4 + 6 + 17 + 17 + 2 + 34
    assert obs[-34:].tolist() == list(range(34))
    assert task.control(np.array([-1.0, 0.0, 1.0]), np.ones(3)).tolist() == [0, 0.5, 1]
    paid = float(reward(rest, still, np.zeros(34, np.float32)))
    assert paid == pytest.approx(2 + 0.1 + 1 + 4 * 0.05 - 0.001 * 34 / 4)
    rest[2] = 0.8
    paid = float(reward(rest, still, -np.ones(34, np.float32)))
    assert paid == pytest.approx(2 + 0.1 + 1 - 200 * 0.04**2, rel=1e-5)
    assert [bool(task.fallen(np.array([0, 0, height]))) for height in (0.73, 0.75)] == [True, False]


def test_its_recipe_is_the_papers_for_humanoid_mtu():
    config = recommended("shac", "mjx/humanoid-muscle", preset="shac").config
    assert (config.actor.net.hidden, config.critic.net.hidden) == ((512, 256), (256, 256))
    assert (config.update.lr, config.value.lr, config.critic.target_decay) == (2e-3, 5e-4, 0.995)
    assert SHAC_CURVES.tasks["humanoid-muscle"].env == "mjx/humanoid-muscle"


@pytest.mark.slow
def test_the_humanoid_is_mujocos_and_its_gradients_pass():
    env = make("mjx/humanoid-muscle", num_envs=ENVS, differentiable=True)
    env.reset(seed=0)
    off = off_from_mujoco(env, actions(1, env)[0])
    assert off == pytest.approx(dict.fromkeys(off, 0.0), abs=1e-4)
    report = check_gradients(env)
    assert report.passed, report
    assert int(env.gradient_guard.dropped) == 0
