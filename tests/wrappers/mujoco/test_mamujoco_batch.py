"""MaMuJoCo's agents on copies that step together: all is as MaMuJoCo gives it one by one."""

import sys

import numpy as np
import pytest
import torch
from toys.robots import assert_equal

from diffsurrogate import UsageError, make
from diffsurrogate.wrappers.external.adapter import env_seeds

pytest.importorskip("gymnasium_robotics")
pytest.importorskip("mujoco.batch")
from gymnasium_robotics import mamujoco_v1
from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

from diffsurrogate.wrappers.mujoco.mamujoco_batch import MaMujocoBatchEnv, excerpt
from diffsurrogate.wrappers.pettingzoo.adapter import PettingZooEnv

# the model files of Gymnasium-Robotics and MuJoCo 4 use what is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_an_excerpt_is_found_by_trying_the_function_out():
    """Entries 3 and 0 as they are, entry 1 within [-1, 2]."""

    def function(row):
        return np.array([row[3], row[0], np.clip(row[1], -1, 2)])

    found = excerpt(function, 5)
    assert found is not None
    assert found.entries.tolist() == [3, 0, 1]
    assert found.low.tolist() == [-np.inf, -np.inf, -1]
    assert found.high.tolist() == [np.inf, np.inf, 2]
    assert found.of(np.array([[10.0, 20, 30, 40, 50]])).tolist() == [[40, 10, 2]]


@pytest.mark.parametrize(
    "function",
    [np.sin, lambda row: row[:2] + row[1:3], lambda row: np.append(row, row.sum()), np.abs],
)
def test_what_is_no_excerpt_is_known(function):
    assert excerpt(function, 4) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("HalfCheetah-6x1", {"agent_obsk": near}) for near in (0, 1, 2)),
        *(("Ant-4x2", {"agent_obsk": near}) for near in (0, 1, 2)),
        ("Walker2d-6x1", {"agent_obsk": 2}),
        ("Humanoid-9|8", {}),
        ("HumanoidStandup-9|8", {"agent_obsk": 0}),
        ("Hopper-3x1", {"terminate_when_unhealthy": False}),
        ("Swimmer-2x1", {}),
        ("Pusher-3p", {}),
        ("ManySegmentSwimmer-4x2", {}),
        ("ManySegmentAnt-2x1", {}),
        ("Ant-2x4d", {"local_categories": [["qvel"], ["qpos", "cfrc_ext"]]}),
        ("HalfCheetah-2x3", {"global_categories": ("qvel",), "ctrl_cost_weight": 0.7}),
    ],
)
def test_every_number_is_that_of_copies_stepped_one_by_one(name, options):
    """Over falls, time limits and resets, to the last bit of float32."""
    given = {"num_envs": 3, "seed": 6, "max_steps": 23} | options
    together = make(f"mamujoco/{name}", threads=2, **given)
    assert isinstance(together, MaMujocoBatchEnv)
    one_by_one = make(f"mamujoco/{name}", batched=False, **given)
    assert isinstance(one_by_one, PettingZooEnv)
    assert together.agents == one_by_one.agents
    assert torch.equal(together.observation_mask, one_by_one.observation_mask)
    assert torch.equal(together.valid_action_dims, one_by_one.valid_action_dims)
    assert_equal(together, one_by_one, 30)


@pytest.mark.parametrize("name", ["Hopper-3x1", "Humanoid-9|8", "Reacher-2x1"])
def test_the_global_state_is_what_one_agent_would_observe(name):
    """In the last columns of every agent, whichever way copies step, and over resets."""
    env, other, alone = (
        make(f"mamujoco/{name}", num_envs=3, state=True, max_steps=20),
        make(f"mamujoco/{name}", num_envs=3, state=True, max_steps=20, batched=False),
        make(f"mujoco/{name.partition('-')[0]}-v5", num_envs=3, max_steps=20),
    )
    assert env.offers_state and other.offers_state
    assert env.global_state_slice == other.global_state_slice
    assert env.global_state_slice == slice(env.obs_dim - alone.obs_dim, env.obs_dim)
    assert torch.equal(env.observation_mask, other.observation_mask)
    assert_equal(env, other, 30)
    obs, expected = env.reset(seed=5)[0], alone.reset(seed=5)[0]
    assert torch.equal(obs[..., env.global_state_slice], expected.expand(-1, env.num_agents, -1))
    without = make(f"mamujoco/{name}", num_envs=3)
    assert without.offers_state and without.global_state_slice is None


@pytest.mark.parametrize("name", ["Ant-4x2", "HalfCheetah-6x1"])
def test_values_are_mamujocos_own(name):
    """On the same states and actions, without anything of ours in between."""
    env = make(f"mamujoco/{name}", num_envs=3, batched=True)
    obs, _ = env.reset(seed=5)
    bare = mamujoco_v1.parallel_env(*name.split("-"))
    seen, _ = bare.reset(seed=env_seeds(5, 3)[1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        for agent, name in enumerate(bare.possible_agents):
            own = seen[name].astype(np.float32)
            np.testing.assert_array_equal(obs[1, agent, : len(own)], own)
        action = 0.3 * torch.rand(3, env.num_agents, env.act_dim, generator=generator)
        obs, reward, terminated, _, _ = env.step(action)
        given = {name: action[1, i].numpy() for i, name in enumerate(bare.possible_agents)}
        seen, earned, *_ = bare.step(given)
        assert reward[1].tolist() == [np.float32(earned["agent_0"])] * env.num_agents
        assert not terminated.any()


@pytest.mark.parametrize("batched", [True, False])
def test_joints_with_one_label_have_one_order(batched):
    """Pusher has two such joints, which MaMuJoCo orders as they lie in memory."""
    seen = [make("mamujoco/Pusher-3p", num_envs=2, batched=batched).reset()[0] for _ in range(4)]
    assert all(torch.equal(seen[0], one) for one in seen)


def test_what_cannot_step_together_steps_one_by_one():
    assert isinstance(make("mamujoco/Reacher-2x1", num_envs=2), PettingZooEnv)


def test_an_older_mujoco_steps_one_by_one(monkeypatch):
    for part in ("mamujoco_batch", "batch_env", "sim_batch"):
        monkeypatch.delitem(sys.modules, f"diffsurrogate.wrappers.mujoco.{part}", raising=False)
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    assert isinstance(make("mamujoco/Ant-4x2", num_envs=2), PettingZooEnv)
    for options in ({"batched": True}, {"threads": 2}):
        with pytest.raises(UsageError, match=r"MuJoCo 4\.0 or newer"):
            make("mamujoco/Ant-4x2", num_envs=2, **options)
    with pytest.raises(UsageError, match=r"MuJoCo 4\.0 or newer"):
        make("mujoco/Ant-v5", num_envs=2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda data: data.ctrl, r"agent_0 sees is not entries.*no attribute 'ctrl'"),
        (lambda data: np.sin(data.qpos), r"agent_0 sees is not entries"),
    ],
)
def test_what_agents_see_beyond_entries_of_the_fields_is_refused(function, message):
    parts, edges, others = get_parts_and_edges("Pusher", "3p")
    others[0].extra_obs = {"qpos": function, "qvel": lambda data: np.array([])}
    own = {"partition": parts, "edges": edges, "globals": others}
    with pytest.raises(UsageError, match=message):
        make("mamujoco/Pusher", num_envs=2, agent_factorization=own, batched=True)
    one_by_one = make("mamujoco/Pusher", num_envs=2, agent_factorization=own)
    assert isinstance(one_by_one, PettingZooEnv)


def test_a_force_that_nobody_exerts_is_refused():
    raw = mamujoco_v1.parallel_env("HalfCheetah", "2x3")
    raw.agent_action_partitions = raw.agent_action_partitions[:1] * 2
    with pytest.raises(UsageError, match="each be one agent's"):
        MaMujocoBatchEnv(raw, num_envs=1, threads=1, max_steps=5, seed=0, device="cpu")
