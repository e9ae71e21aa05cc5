"""Copies of a robot that step together: every number is Gymnasium's own, and a state goes on."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from toys.robots import assert_equal

from diffsurrogate import UsageError, make
from diffsurrogate.envs.registry import known_ids
from diffsurrogate.wrappers.external.adapter import env_seeds

pytest.importorskip("mujoco.batch")
from diffsurrogate.wrappers.mujoco.batch_env import MujocoBatchEnv

# the model files of Gymnasium and MuJoCo 4 use what is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROBOTS = known_ids("mujoco") or []
OPTIONS = [
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.1}),
    ("Ant-v5", {"terminate_when_unhealthy": False, "main_body": "aux_1"}),
    ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 2}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_state_range": (-2.0, 2.0)}),
    ("Hopper-v5", {"reset_noise_scale": 0.1, "forward_reward_weight": 3.0}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "contact_cost_weight": 1e-2}),
    ("Humanoid-v5", {"include_cvel_in_observation": False, "contact_cost_range": (-1.0, 0.5)}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
    ("Walker2d-v5", {"ctrl_cost_weight": 0.3, "healthy_z_range": (1.0, 1.3)}),
]


@pytest.mark.parametrize("env_id", ROBOTS)
def test_every_number_is_that_of_copies_stepped_one_by_one(env_id):
    """Over falls, time limits and resets, to the last bit of float32."""
    options = {"num_envs": 3, "seed": 5, "max_steps": 37}
    name = env_id.removeprefix("mujoco/")
    assert_equal(make(env_id, threads=2, **options), make(f"gymnasium/{name}", **options), 80)


@pytest.mark.parametrize(("name", "robot"), OPTIONS)
def test_the_robots_own_options_are_gymnasiums(name, robot):
    ours, theirs = (make(f"{kind}/{name}", num_envs=2, **robot) for kind in ("mujoco", "gymnasium"))
    assert_equal(ours, theirs, 40)


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_the_simulation_is_gymnasiums_in_float64_too(name):
    """Positions and velocities of 300 steps, which a warm start that is lost would change."""
    going_on = {"terminate_when_unhealthy": False} if name == "Ant-v5" else {}
    env = make(f"mujoco/{name}", num_envs=3, **going_on)
    env.reset(seed=9)
    raw = gymnasium.make(name).unwrapped
    raw.reset(seed=env_seeds(9, 3)[2])
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        action = 2 * torch.rand(3, 1, env.act_dim, generator=generator) - 1
        env.step(action)
        raw.step(action[2, 0].numpy())
        np.testing.assert_array_equal(env._sim.fields["qpos"][2], raw.data.qpos)
        np.testing.assert_array_equal(env._sim.fields["qvel"][2], raw.data.qvel)


def test_a_wrapper_that_changes_the_robot_is_refused():
    raw = gymnasium.wrappers.TransformReward(gymnasium.make("Hopper-v5"), lambda reward: 2 * reward)
    with pytest.raises(UsageError, match="TransformReward may change what the robot does"):
        MujocoBatchEnv(raw, num_envs=2)


def test_numbers_that_are_not_finite_are_refused():
    env = make("mujoco/HalfCheetah-v5", num_envs=3, forward_reward_weight=float("inf"))
    env.reset()
    with pytest.raises(UsageError, match="reward of env 0 at step 1 of its episode is not finite"):
        env.step(torch.zeros(3, 1, 6))


PICTURES = """
from diffsurrogate import UsageError, make
try:
    env, other = make("mujoco/Hopper-v5", num_envs=3), make("mamujoco/Hopper-3x1", num_envs=2)
    theirs = make("gymnasium/Hopper-v5", num_envs=3, render_mode="rgb_array")
    for one in (env, other, theirs): one.reset(seed=3)
    frames = env.render([2])
    assert len(frames) == 1 and (frames[0] == theirs.render()[2]).all()
    assert len(other.render()) == 2
    after = env.step(env.action_high.expand(3, -1, -1))
    assert (env.render([2])[0] != frames[0]).any()
    env.close()
except UsageError as error:
    assert "MUJOCO_GL=egl" in str(error)
"""


def test_pictures_are_gymnasiums_where_there_is_opengl():
    """In a process of its own: MuJoCo chooses its OpenGL when imported."""
    command = [sys.executable, "-c", f"import os; os.environ['MUJOCO_GL'] = 'egl'\n{PICTURES}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
