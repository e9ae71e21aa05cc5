"""MaMuJoCo: the values are MuJoCo's, every joint is somebody's, and SHAC++ and PPO run on it."""

import pytest
import torch
from torch import Tensor

from diffsurrogate import make
from diffsurrogate.wrappers.external.mujoco_warnings import quiet_mujoco

pytest.importorskip("gymnasium_robotics")
# the model files of Gymnasium-Robotics and MuJoCo 4 use what is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def actions(steps: int, envs: int, agents: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(steps, envs, agents, size, generator=generator) - 1


@pytest.mark.parametrize(("given", "limit"), [({}, 50), ({"max_steps": 7}, 7)])
def test_the_robots_own_time_limit_is_known(given, limit):
    env = make("mamujoco/Reacher-2x1", num_envs=2, **given)
    assert env.max_steps == limit
    env.reset(seed=0)
    cuts = [bool(env.step(torch.zeros(2, 2, 1))[3].any()) for _ in range(limit)]
    assert cuts == [False] * (limit - 1) + [True]


@pytest.mark.parametrize("name", ["Walker2d-6x1", "Ant-8x1", "HalfCheetah-3x2"])
def test_joints_shared_out_anew_are_each_somebodys_once(name):
    env = make(f"mamujoco/{name}", num_envs=1, batched=False)
    raw = env.raws[0]
    joints = [joint.act_ids for part in raw.agent_action_partitions for joint in part]
    agents, each = map(int, name.partition("-")[2].split("x"))
    assert (env.num_agents, env.act_dim) == (agents, each)
    assert sorted(joints) == list(range(agents * each))


def test_the_same_forces_earn_the_same_whoever_exerts_them():
    forces = actions(5, 1, 1, 6)[:, 0, 0]
    earned = []
    for name in ("Walker2d-2x3", "Walker2d-6x1"):
        env = make(f"mamujoco/{name}", num_envs=1, batched=False)
        env.reset(seed=3)
        raw, total = env.raws[0], 0.0
        for force in forces:
            own = raw.map_global_action_to_local_actions(force.numpy())
            action = torch.stack([torch.as_tensor(own[agent]) for agent in raw.possible_agents])
            total += float(env.step(action[None])[1][0, 0])
        earned.append(total)
    assert earned[0] == pytest.approx(earned[1], rel=1e-6)


def test_agents_see_further_if_told_to():
    near, far = (
        make("mamujoco/HalfCheetah-6x1", num_envs=1, agent_obsk=joints) for joints in (0, 5)
    )
    assert near.obs_dim < 9 < far.obs_dim


@pytest.mark.parametrize(
    "env_id", ["gymnasium/HalfCheetah-v5", "mujoco/HalfCheetah-v5", "mamujoco/HalfCheetah-6x1"]
)
def test_making_many_copies_says_nothing_and_leaves_no_file(env_id, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = make(env_id, num_envs=3)
    env.reset()
    env.close()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert not list(tmp_path.iterdir())


def test_what_else_mujoco_warns_of_is_passed_on():
    import mujoco

    before = mujoco.get_mju_user_warning()
    with quiet_mujoco(), pytest.warns(RuntimeWarning, match="MuJoCo: too many contacts"):
        mujoco.get_mju_user_warning()("too many contacts")
        mujoco.get_mju_user_warning()("'x' is deprecated")
    assert mujoco.get_mju_user_warning() == before
