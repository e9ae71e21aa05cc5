"""PettingZoo's masks, global states and several choices at once behind our protocol, and back."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from toys.masked import AGENTS, MaskedReach
from toys.reach import config, learned
from toys.turnover import BOTH, TERMINATE, lives

from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.gymnasium.export import as_gymnasium
from diffsurrogate.wrappers.pettingzoo.export import as_pettingzoo
from diffsurrogate.wrappers.sb3.export import SB3VecEnv
from diffsurrogate.wrappers.split_agents import SplitAgents

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports an env in the old way
    from pettingzoo.test import parallel_api_test

ENVS = 5


class Locks(ParallelEnv):
    """Two agents with 3 and 5 choices, each open at random; a closed one is an error.

    Agent b has two choices at once, of 2 and 3, if `several`; then it earns twice its step.
    """

    metadata = {"name": "locks"}  # noqa: RUF012

    def __init__(self, where: str, *, several: bool = False) -> None:
        self.possible_agents, self.where, self.masks = ["a", "b"], where, {}
        self.random = np.random.default_rng(1)
        self.sizes = {"a": (3,), "b": (2, 3) if several else (5,)}
        self.acts = {"a": spaces.Discrete(3, start=7), "b": spaces.Discrete(5)}
        if several:
            self.acts["b"] = spaces.MultiDiscrete([2, 3], start=[4, 0])
        self.sees: dict[str, Any] = {
            "a": spaces.Box(-1, 1, (2,)),
            "b": spaces.Dict({"place": spaces.Box(-1, 1, (1,)), "step": spaces.Box(0, 999, (1,))}),
        }
        if where == "observations":
            masks = {a: spaces.MultiBinary(sum(sizes)) for a, sizes in self.sizes.items()}
            self.sees = {
                "a": spaces.Dict({"action_mask": masks["a"], "observation": self.sees["a"]}),
                "b": spaces.Dict({**self.sees["b"].spaces, "action_mask": masks["b"]}),
            }

    def observation_space(self, agent: str) -> Any:
        return self.sees[agent]

    def action_space(self, agent: str) -> Any:
        return self.acts[agent]

    def state(self) -> Any:
        return np.array([[self.steps], [-self.steps], [self.place]], np.float64)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.steps, self.taken = self.possible_agents[:], 0, 0
        return self.observe()

    def observe(self) -> tuple[Any, Any]:
        self.place, infos = self.random.uniform(-1, 1), {}
        seen: dict[str, Any] = {
            "a": np.full(2, self.place, np.float32),
            "b": {"place": np.array([self.place]), "step": np.array([self.steps])},
        }
        for agent, sizes in self.sizes.items():
            parts = [self.random.integers(0, 2, size) for size in sizes]
            for part in parts:
                part[self.random.integers(len(part))] = 1
            self.masks[agent] = parts
            if self.where == "observations":
                own = seen[agent] if agent == "b" else {"observation": seen[agent]}
                seen[agent] = own | {"action_mask": np.concatenate(parts).astype(np.int8)}
            else:
                infos[agent] = {"action_mask": tuple(parts) if len(parts) > 1 else parts[0]}
        return seen, infos

    def step(self, actions: dict[str, Any]) -> Any:
        for agent, action in actions.items():
            assert self.acts[agent].contains(action)
            given = np.ravel(action - self.acts[agent].start)
            for part, choice in zip(self.masks[agent], given, strict=True):
                assert part[choice] == 1, "a closed choice"
                self.taken += 1
        self.steps += 1
        over = dict.fromkeys(self.agents, self.steps == 150)
        rewards, never = {"a": 1.0, "b": 2.0 * self.steps}, dict.fromkeys(self.agents, False)
        self.agents = [] if self.steps == 150 else self.agents
        seen, infos = self.observe()
        return seen, rewards, over, never, infos


def adapted(where: str, **options: Any) -> MultiAgentVectorEnv:
    several = options.pop("several", False)
    return as_multi_agent(lambda: Locks(where, several=several), num_envs=ENVS, seed=3, **options)


class LateMask(Locks):
    """Gives its masks from the first step on only."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        seen, _ = super().reset(seed, options)
        self.masks = {
            agent: [np.ones(size) for size in sizes] for agent, sizes in self.sizes.items()
        }
        return seen, {}


def test_masks_in_infos_that_the_reset_did_not_have_are_refused():
    env = as_multi_agent(lambda: LateMask("infos"), num_envs=2, seed=3)
    env.reset()
    with pytest.raises(UsageError, match=r"action_mask of 'a' is in infos now.*the reset on"):
        env.step(env.action_high.expand(2, -1, -1))


@pytest.mark.parametrize("where", ["observations", "infos"])
@pytest.mark.parametrize("several", [False, True])
def test_masks_are_columns_and_closed_choices_never_reach_the_env(where, several):
    env: Any = adapted(where, several=several)
    assert env.agents == (["a", "b/0", "b/1"] if several else ["a", "b"])
    assert env.action_mask_slice == (slice(2, 5) if several else slice(2, 7))
    sizes = [3, 2, 3] if several else [3, 5]
    assert env.valid_action_dims.sum(1).tolist() == sizes
    assert env.observation_mask[:, env.action_mask_slice].sum(1).tolist() == sizes
    assert env.discrete_actions and env.global_state_slice is None and env.offers_state
    obs, _ = env.reset()
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        for rows, raw in zip(obs[..., env.action_mask_slice], env.raws, strict=True):
            masks = [*raw.masks["a"], *raw.masks["b"]]
            for row, mask in zip(rows, masks, strict=True):
                assert row[: len(mask)].tolist() == mask.tolist() and not row[len(mask) :].any()
        assert (obs[:, 1, 1] == step).all()
        shape = (ENVS, env.num_agents, env.act_dim)
        obs, reward, *_ = env.step(torch.rand(shape, generator=generator))
        assert reward.sum(1).tolist() == [1 + 2 * (step + 1)] * ENVS
        assert env.single_observation_space.contains(obs[0].numpy())
    assert all(raw.taken == 120 * env.num_agents for raw in env.raws)


def test_an_env_without_masks_has_no_columns_for_them():
    assert make("pettingzoo/classic/rps_v2", num_envs=2).action_mask_slice is None


def test_a_mask_that_is_none_is_named():
    env: Any = adapted("infos")
    env.reset()
    raw = env.raws[2]
    raw.observe = lambda: ({**Locks.observe(raw)[0]}, {"a": {"action_mask": [1, 0]}})
    with pytest.raises(UsageError, match=r"env 2, step 1.*action_mask of 'a' is \[1, 0\]; 3 entri"):
        env.step(torch.rand(ENVS, 2, 5))


def test_the_global_state_is_the_raw_envs_and_ends_every_row():
    env: Any = adapted("infos", state=True)
    assert (env.action_mask_slice, env.global_state_slice) == (slice(2, 7), slice(7, 10))
    obs, _ = env.reset()
    for step in range(4):
        for agent in range(2):
            expected = [[step, -step, np.float32(raw.place)] for raw in env.raws]
            assert obs[:, agent, 7:].tolist() == expected
        obs, *_ = env.step(torch.rand(ENVS, 2, 5))


def test_a_state_is_refused_where_there_is_none():
    with pytest.raises(UsageError, match="lives has no global state"):
        as_multi_agent(lives(*[(9, TERMINATE)] * 3), state=True)
    broken = lives(*[(9, BOTH)] * 3)
    broken.__class__ = type("Broken", (type(broken),), {"state": lambda self: 1 / 0})
    with pytest.raises(UsageError, match="lives gives no global state: ZeroDivisionError"):
        as_multi_agent(broken, state=True)
    assert not make("pettingzoo/classic/rps_v2", num_envs=1).offers_state
    exported = as_pettingzoo(make("diffsurrogate/cartpole-swingup", num_envs=1))
    assert not as_multi_agent(exported).offers_state


class WithState(BaseParallelWrapper):
    """Gives an env without a global state one."""

    def state(self) -> np.ndarray[Any, Any]:
        return np.array([3.0, 4.0], np.float32)


def test_a_wrapper_may_give_an_env_its_state_and_a_raw_env_keeps_its_seed():
    def make_one() -> WithState:
        return WithState(lives(*[(9, TERMINATE)] * 3))

    env = as_multi_agent(make_one, num_envs=2, state=True)
    obs, _ = env.reset(seed=0)
    assert env.offers_state
    assert obs[:, :, env.global_state_slice].flatten(0, 1).tolist() == [[3.0, 4.0]] * (
        2 * env.num_agents
    )
    seeds = []
    locks = Locks("infos")
    reset = locks.reset

    def remembered(seed: int | None = None, options: Any = None) -> Any:
        seeds.append(seed)
        return reset(seed=seed, options=options)

    locks.reset = remembered
    as_multi_agent(locks).reset()
    assert seeds == [None, None]


@pytest.mark.parametrize("where", ["observations", "infos"])
@pytest.mark.parametrize("several", [False, True])
def test_ppo_and_shac_train_on_masks_and_several_choices(where, several):
    """`Locks` itself refuses closed choices."""
    env: Any = adapted(where, several=several, state=True)
    agent = PPO(env, PPOConfig(horizon=20), seed=0).learn(2 * 20 * ENVS)
    assert (agent.iteration, agent.skipped) == (2, 0)
    shac = SHAC(learned(env), config(noise=NoiseConfig()), seed=0).learn(5 * 4 * ENVS)
    assert (shac.iteration, shac.skipped) == (5, 0)
    obs = env.current_obs
    for _ in range(50):
        action = agent.predict(obs)
        assert (action.bool() <= available_actions(obs, env.action_mask_slice)).all()
        obs, *_ = env.step(action)


# --- out again ------------------------------------------------------------------------------------


def test_pettingzoos_tests_pass_with_masks_in_infos_and_the_state_apart():
    env = as_pettingzoo(MaskedReach(num_envs=1))
    parallel_api_test(env, num_cycles=40)
    observations, infos = env.reset(seed=0)
    raw = env.env.current_obs[0]
    assert env.state_space.contains(env.state())
    for index, agent in enumerate(env.agents):
        assert observations[agent].tolist() == raw[index, :2].tolist()
        assert env.observation_space(agent).contains(observations[agent])
        assert infos[agent]["action_mask"].tolist() == raw[index, 2:6].tolist()
        assert env.state().tolist() == raw[index, 6:].tolist()
    back: Any = as_multi_agent(
        lambda: as_pettingzoo(MaskedReach(num_envs=1)), num_envs=2, state=True
    )
    assert (back.action_mask_slice, back.global_state_slice) == (
        MaskedReach.action_mask_slice,
        MaskedReach.global_state_slice,
    )
    obs, _ = back.reset(seed=0)
    for row, raw_env in zip(obs, back.raws, strict=True):
        assert torch.equal(row, raw_env.env.current_obs[0])
    bare = as_pettingzoo(make("diffsurrogate/cartpole-swingup", num_envs=1))
    with pytest.raises(NotImplementedError, match="no global state"):
        bare.state()


def test_other_exports_leave_the_state_out():
    for flatten, shape in ((True, (AGENTS * 6,)), (False, (AGENTS, 6))):
        envs = as_gymnasium(MaskedReach(), flatten=flatten)
        obs, _ = envs.reset(seed=0)
        assert envs.single_observation_space.shape == shape
        rows = obs.reshape(7, AGENTS, 6)
        assert (rows == envs.env.current_obs[..., :6].numpy()).all()
    for joint, width in ((False, 6), (True, AGENTS * 6)):
        slots = SB3VecEnv(MaskedReach(), joint=joint)
        assert slots.observation_space.shape == (width,)
        assert slots.reset().shape[1] == width
        actions = [slots.action_space.sample() for _ in range(slots.num_envs)]
        assert slots.step(np.array(actions))[0].shape[1] == width


def test_split_agents_keep_the_state_apart():
    spread = lambda: simple_spread_v3.parallel_env(N=1, continuous_actions=True)  # noqa: E731
    robot = as_multi_agent(spread, num_envs=2, state=True)
    robot.reset(seed=0)
    seen, state = (
        robot.global_state_slice.start,
        robot.global_state_slice.stop - robot.global_state_slice.start,
    )
    halves = {"one": [0, 1, 2], "two": [3, 4]}
    for given, width in ((None, seen), ({"one": [0, 3], "two": [1]}, 2)):
        env = SplitAgents(robot, halves, given)
        assert env.global_state_slice == slice(width, width + state)
        obs, _ = env.reset(seed=0)
        whole = robot.current_obs[:, 0]
        assert torch.equal(
            obs[..., env.global_state_slice], whole[:, None, seen:].expand(-1, 2, -1)
        )
        assert torch.equal(obs[:, 0, :2], whole[:, [0, 1] if given is None else [0, 3]])
        assert env.observation_mask[:, env.global_state_slice].all()
    with pytest.raises(UsageError, match="of the global state"):
        SplitAgents(robot, halves, {"one": [0], "two": [seen]})
