"""The contract of every adapter: what holds for our envs whichever library they come from.

What is special to a library, values equal to its own above all, is tested beside its adapter.
"""

import copy
import functools
import importlib.util
import io
import pickle
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor
from toys.by_hand import actions
from toys.reach import config, learned

from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError

# the model files of Gymnasium-Robotics and MuJoCo 4 use what is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENVS, LIMIT = 5, 7
RESET = torch.tensor([True, False, False, True, False])


@dataclass(frozen=True, kw_only=True)
class Case:
    """An env, and what it can do."""

    env_id: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    needs: str = "gymnasium"
    saves: bool = False
    copies: bool = True
    """Whether `copy.deepcopy` and `pickle` take it in the middle of an episode."""
    random: bool = True
    """Whether resets draw anything."""
    differentiable: bool = False
    limits: bool = True
    """Whether a time limit can be given, and envs can be reset one by one."""
    unknown: str = "could not be made with"
    """What is said of an option that is not known."""

    def build(self, **options: Any) -> MultiAgentVectorEnv:
        if self.env_id:
            return make(
                self.env_id, **({"num_envs": ENVS, "max_steps": LIMIT} | self.options | options)
            )
        mode = {"render_mode": options.pop("render_mode", None), "max_episode_steps": LIMIT}
        one = lambda: gymnasium.make("Pendulum-v1", **mode)  # noqa: E731
        return as_multi_agent(make_vec_env(one, ENVS), **options)


SPREAD = "jaxmarl/MPE_simple_spread_v3"
PREDATORS = {"num_good": 1, "num_adversaries": 2, "num_obstacles": 1}
CASES = {
    "builtin": Case(
        env_id="diffsurrogate/cartpole-swingup",
        saves=True,
        differentiable=True,
        unknown="does not take",
    ),
    "games": Case(
        env_id="games/climbing",
        options={"steps": 50},
        saves=True,
        random=False,
        unknown="does not take",
    ),
    "gymnasium": Case(env_id="gymnasium/Pendulum-v1"),
    "gymnasium, discrete": Case(env_id="gymnasium/Acrobot-v1"),
    "mpe2": Case(env_id="mpe2/simple_tag_v3", options=PREDATORS, copies=False, needs="mpe2"),
    "mpe2, discrete": Case(
        env_id="mpe2/simple_speaker_listener_v4",
        options={"continuous_actions": False},
        copies=False,
        needs="mpe2",
    ),
    "pettingzoo": Case(
        env_id="pettingzoo/classic/rps_v2", random=False, copies=False, needs="pettingzoo"
    ),
    "mujoco": Case(env_id="mujoco/HalfCheetah-v5", saves=True, copies=False, needs="mujoco.batch"),
    "mamujoco": Case(
        env_id="mamujoco/Ant-2x4", saves=True, copies=False, needs="gymnasium_robotics"
    ),
    "mamujoco, one by one": Case(
        env_id="mamujoco/HalfCheetah-2x3",
        options={"batched": False},
        copies=False,
        needs="gymnasium_robotics",
    ),
    "jaxmarl": Case(
        env_id=SPREAD,
        options={"action_type": "Continuous"},
        saves=True,
        copies=False,
        needs="jaxmarl",
        unknown="takes no",
    ),
    "sb3": Case(limits=False, needs="stable_baselines3", unknown="does not take"),
    "vmas": Case(
        env_id="vmas/simple_speaker_listener",
        saves=True,
        differentiable=True,
        unknown="does not take|no argument|takes no|has no",
    ),
    "paper": Case(
        env_id="paper/transport",
        saves=True,
        differentiable=True,
        unknown="does not take|no argument|takes no|has no",
    ),
}


@functools.cache
def pair(name: str) -> tuple[MultiAgentVectorEnv, MultiAgentVectorEnv]:
    """Return two envs made with different seeds, once for all tests, which reset them.

    Of JAX's, which take seconds to compile, there is one.
    """
    one = CASES[name].build(seed=1)
    return one, one if name == "jaxmarl" else CASES[name].build(seed=2)


def needed(name: str) -> None:
    try:
        found = importlib.util.find_spec(CASES[name].needs)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"needs {CASES[name].needs}")


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    needed(request.param)
    return str(request.param)


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture
def env(name: str) -> MultiAgentVectorEnv:
    return pair(name)[0]


@pytest.fixture
def other(name: str) -> MultiAgentVectorEnv:
    return pair(name)[1]


def play(env: MultiAgentVectorEnv, steps: int, seed: int = 0) -> list[Tensor]:
    """Return all that random actions in the box give."""
    given = iter(actions(env, steps, seed))
    window = env.collect(lambda obs: next(given), steps)
    return [window.obs, window.reward, window.next_obs, window.terminated, window.truncated]


def equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_shapes_spaces_and_dtypes_are_those_of_the_protocol(env, case):
    obs, info = env.reset(seed=0)
    agents = len(env.agents)
    assert (env.num_envs, env.num_agents, info) == (ENVS, agents, {})
    assert (obs.shape, obs.dtype) == ((ENVS, agents, env.obs_dim), torch.float32)
    assert env.single_observation_space.shape == (agents, env.obs_dim)
    assert env.single_observation_space.contains(obs[0].numpy())
    assert env.single_action_space.shape == (agents, env.act_dim)
    assert env.max_steps == (LIMIT if case.limits else None)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.gradients == frozenset()
    if env.discrete_actions:
        assert (env.single_action_space.low == 0).all()
        assert (env.single_action_space.high == 1).all()
    assert not obs[:, ~env.observation_mask].any()
    middle = (env.action_low + env.action_high) / 2
    obs, reward, terminated, truncated, info = env.step(middle.expand(ENVS, -1, -1))
    assert (obs.shape, info["final_obs"].shape) == ((ENVS, agents, env.obs_dim),) * 2
    assert (reward.shape, reward.dtype) == ((ENVS, agents), torch.float32)
    for flags in (terminated, truncated, info["_final_obs"]):
        assert (flags.shape, flags.dtype) == ((ENVS,), torch.bool)
    with pytest.raises(UsageError, match="shape"):
        env.step(torch.zeros(ENVS, agents + 1, env.act_dim))
    env.detach()


def test_the_same_seed_gives_the_same_numbers_and_leaves_global_streams_alone(env, other, case):
    def run(env: MultiAgentVectorEnv, seed: int, around: Any = None) -> list[Tensor]:
        env.reset(seed=seed)
        first = play(env, LIMIT + 3)  # over a reset, as are the others
        if around is not None and around is not env:
            around.reset(seed=9)
            play(around, 2)
        return first + play(env, LIMIT, seed=1)

    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = run(env, 3)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    assert equal(first, run(other, 3, around=env))
    if case.random:
        starts = first[0][0]
        assert not torch.equal(starts, run(env, 4)[0][0])
        assert len(starts.flatten(1).unique(dim=0)) == ENVS
        assert not torch.equal(env.reset()[0], env.reset()[0])


def test_a_seed_given_when_made_is_that_of_the_first_reset_alone(case):
    if case.needs == "jaxmarl" or not case.random:
        pytest.skip("compiles for seconds" if case.random else "nothing is drawn")
    env, again = case.build(seed=6), case.build(seed=6)
    first, _ = env.reset()
    assert torch.equal(first, again.reset()[0])
    assert not torch.equal(first, env.reset()[0])
    for one in (env, again):
        one.close()
        one.close()  # twice does no harm


def test_the_time_limit_truncates_and_final_obs_come_before_the_reset(env, case):
    env.reset(seed=0)
    action = ((env.action_low + env.action_high) / 2).expand(ENVS, -1, -1)
    for step in range(1, 2 * LIMIT + 1):
        obs, _, terminated, truncated, info = env.step(action)
        assert not terminated.any()
        assert truncated.tolist() == [step % LIMIT == 0] * ENVS
        assert torch.equal(info["_final_obs"], truncated)
        assert torch.equal(env.episode_start, truncated)
        assert torch.equal(env.current_obs, obs)
        moved = (obs != info["final_obs"]).flatten(1).any(1)
        assert not moved[~truncated].any()
        assert not case.random or torch.equal(moved, truncated)


def test_staggered_time_limits_come_where_our_count_says(env, case):
    if not case.limits:
        pytest.skip("has no time limit that we know")
    env.reset(seed=0)
    env.randomise_episode_phase(torch.Generator().manual_seed(2))
    first = LIMIT - env._episodes.steps
    assert first.unique().numel() > 1
    *_, terminated, truncated = play(env, 2 * LIMIT)
    for index in range(ENVS):
        expected = list(range(int(first[index]) - 1, 2 * LIMIT, LIMIT))
        ends = (terminated | truncated)[:, index].nonzero().flatten().tolist()
        assert ends == expected


def test_a_saved_state_goes_on_exactly_in_another_env_or_is_refused_in_words(env, other, case):
    env.reset(seed=4)
    if not case.saves:
        with pytest.raises(NotImplementedError, match="no way to save"):
            env.state()
        with pytest.raises(NotImplementedError, match="no way to restore"):
            env._restore({})
        return
    env.randomise_episode_phase(torch.Generator().manual_seed(0))
    play(env, 3)
    torch.save(state := env.state(), file := io.BytesIO())
    expected = play(env, 2 * LIMIT, seed=1)
    file.seek(0)
    other.reset(seed=5)
    other.set_state(torch.load(file, weights_only=True))
    assert equal(play(other, 2 * LIMIT, seed=1), expected)
    env.set_state(state)  # which stepping on has not changed
    assert equal(play(env, 2 * LIMIT, seed=1), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_an_episode_goes_on_alike_or_is_refused_in_words(env, case, copied):
    env.reset(seed=6)
    play(env, 3)
    if not case.copies:
        with pytest.raises(UsageError, match=r"cannot be copied or pickled: .*; make another"):
            copied(env)
        return
    again = copied(env)
    expected = play(env, 2 * LIMIT, seed=1)
    assert equal(play(again, 2 * LIMIT, seed=1), expected)


def test_processes_and_compiled_functions_are_not_copied():
    kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
    raw = gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="async", vector_kwargs=kwargs)
    with pytest.raises(UsageError, match="run in processes of their own; make another like it"):
        copy.deepcopy(as_multi_agent(raw))
    raw.close()
    pytest.importorskip("jax")
    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    env = JaxEnv(lambda key: (key, key), lambda s, a: (s, s, 0.0, False), act_dim=1, num_envs=2)
    with pytest.raises(UsageError, match="compiled by JAX"):
        pickle.dumps(env)


def test_a_copy_of_a_new_env_begins_alike():
    """Also where the library copies only how an env is made."""
    pytest.importorskip("mpe2")
    env = CASES["mpe2"].build(seed=3)
    assert equal(play_anew(copy.deepcopy(env)), play_anew(env))


def play_anew(env: MultiAgentVectorEnv) -> list[Tensor]:
    env.reset(seed=1)
    return play(env, 3)


def test_envs_in_the_mask_are_reset_and_the_others_go_on(env, case):
    env.reset(seed=2)
    play(env, 3)
    if not case.limits:
        with pytest.raises(UsageError, match="only when its episode ends"):
            env.reset(options={"reset_mask": RESET})
        return
    undisturbed = play(env, LIMIT - 3, seed=1)
    env.reset(seed=2)
    play(env, 3)
    before = env.current_obs.clone()
    obs, info = env.reset(options={"reset_mask": RESET.numpy()})
    assert info == {}
    assert torch.equal(env.current_obs, obs)
    assert torch.equal(obs[~RESET], before[~RESET])
    assert torch.equal(env.episode_start, RESET)
    if case.random:
        assert (obs[RESET] != before[RESET]).flatten(1).any(1).all()
    gone_on = play(env, LIMIT - 3, seed=1)
    assert equal([row[:, ~RESET] for row in gone_on], [row[:, ~RESET] for row in undisturbed])
    *_, terminated, truncated = gone_on
    assert not terminated.any()
    assert truncated.any(1).tolist() == [False] * (LIMIT - 4) + [True]
    assert torch.equal(truncated[-1], ~RESET)
    *_, truncated = play(env, 3)
    assert truncated.any(1).tolist() == [False, False, True]
    assert torch.equal(truncated[-1], RESET)


def test_one_of_our_envs_is_not_wrapped_again(env):
    assert as_multi_agent(env) is env


@pytest.mark.filterwarnings("ignore:rewards of two agents are opposed")
def test_ppo_and_shac_take_updates_on_it(env, name):
    if name == "games":
        pytest.skip("observations of 1 leave models nothing to learn")
    ppo = PPO(env, PPOConfig(horizon=4), seed=0).learn(4 * ENVS)
    assert (ppo.iteration, ppo.skipped) == (1, 0)
    agent = SHAC(learned(env), config(horizon=4), seed=0)
    before = [value.detach().clone() for value in agent.actor.parameters()]
    agent.learn(2 * 4 * ENVS)
    assert (agent.iteration, agent.skipped) == (2, 0)
    dense = name != "paper"  # its packages were not touched yet
    assert not dense or not equal(before, list(agent.actor.parameters()))


DRAWN_IF_ASKED = {"gymnasium", "mpe2", "sb3"}


@pytest.mark.parametrize("name", ["builtin", "vmas", *sorted(DRAWN_IF_ASKED)])
def test_pictures_are_of_all_envs_or_of_those_asked_for(name):
    """Pygame's are made only if that was said when the env was made."""
    needed(name)
    asked = {"render_mode": "rgb_array"} if name in DRAWN_IF_ASKED else {}
    env = CASES[name].build(**asked)
    env.reset(seed=0)
    frames = env.render()
    assert env.render_mode == "rgb_array"
    assert len(frames) == ENVS
    assert all((f.shape, f.dtype) == ((*f.shape[:2], 3), np.uint8) for f in frames)
    some = env.render([2, 0])
    assert len(some) == 2
    assert np.array_equal(some[0], frames[2]) and np.array_equal(some[1], frames[0])
    assert not np.array_equal(frames[2], frames[0])
    if asked:
        plain = pair(name)[0]
        assert plain.render_mode is None
        with pytest.raises(UsageError, match=r'render_mode.*"rgb_array"'):
            plain.render()


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": 0}, "num_envs is 0"),
    ({"max_steps": 0}, "max_steps is 0"),
    ({"differentiable": True}, "LearnedDiffWrapper|own gradients"),
    ({"render_mode": "human"}, "render_mode"),
    ({"device": "tpu"}, "device"),
    ({"no_such": 5}, "no_such"),
]


@pytest.mark.parametrize(("options", "advice"), REFUSALS, ids=[next(iter(o)) for o, _ in REFUSALS])
def test_options_out_of_range_are_refused(name, case, options: dict[str, Any], advice: str):
    if "differentiable" in options and case.differentiable:
        pytest.skip("has gradients")
    if not case.env_id and {*options} & {"num_envs", "max_steps", "differentiable", "render_mode"}:
        pytest.skip("these are told to the VecEnv")
    with pytest.raises(UsageError, match=advice):
        case.build(**options)


def test_an_unknown_option_is_refused(case):
    with pytest.raises(UsageError, match=case.unknown):
        case.build(no_such=5)


ADVISED: list[tuple[str, dict[str, Any], str]] = [
    ("diffsurrogate/cartpole-swingu", {}, "cartpole-swingup"),
    ("games/climbin", {}, "climbing"),
    ("games/matrix", {}, "needs payoff"),
    ("games/matrix", {"payoff": [[1.0, 2.0]]}, "one axis per agent"),
    ("games/matrix", {"payoff": [[1.0], [2.0, 3.0]]}, "no array of numbers"),
    ("games/matrix", {"payoff": [[float("nan")]]}, "finite"),
    ("games/specialisation", {"n_agents": 0}, "at least 1"),
    ("games/climbing", {"steps": 0}, "at least 1"),
    ("gymnasium/Pendlum-v1", {}, "Pendulum-v1"),
    ("mpe2/simple_spred_v3", {}, "simple_spread_v3"),
    ("mpe2/simple_spread_v3", {"n_foxes": 3}, "n_foxes.*it takes N, local_ratio, max_cycles"),
    ("mpe2/simple_spread_v3", {"local_ratio": 2.0}, "local_ratio is a proportion"),
    ("pettingzoo/classic/rps_v3", {}, "rps_v2"),
    ("pettingzoo/sisl/multiwaker_v9", {}, "pettingzoo/sisl/multiwalker_v9"),
    ("pettingzoo/waterworld_v4", {}, "pettingzoo/<family>/<name>.*classic, sisl"),
    ("pettingzoo/sisle/pursuit_v5", {}, "pettingzoo/<family>/<name>.*classic, sisl"),
    ("pettingzoo/classic/tictactoe_v3", {}, "take turns are not supported"),
    ("mujoco/HalfCheeta-v5", {}, "HalfCheetah-v5"),
    ("mujoco/HalfCheetah-v5", {"threads": 0}, "threads is 0"),
    ("mujoco/HalfCheetah-v4", {}, "HalfCheetahEnv of gymnasium.envs.mujoco.half_cheetah_v4"),
    ("mujoco/Pendulum-v1", {}, "AntEnv, HalfCheetahEnv"),
    ("mamujoco/HalfCheetah", {}, "HalfCheetah-6x1"),
    ("mamujoco/HalfCheetah-5x1", {}, "HalfCheetah has 6"),
    ("mamujoco/Cat-2x1", {}, "is not known"),
    ("mamujoco/ManySegmentSwimmer-many", {}, "is not known"),
    ("mamujoco/CoupledHalfCheetah-2x6", {}, "UNKNOWN partitioning config"),
    ("mamujoco/Ant-4x2", {"agent_obsk": None}, "makes one agent"),
    ("mamujoco/Ant-4x2", {"batched": False, "threads": 2}, "one copy after another"),
    ("mamujoco/Ant-4x2", {"batched": False, "render_mode": "rgb_array"}, "cannot be drawn"),
    ("mamujoco/Ant-4x2", {"threads": 0}, "threads is 0"),
    ("mamujoco/Reacher-2x1", {"batched": True}, "agent_0 sees is not entries"),
    ("mamujoco/Reacher-2x1", {"threads": 2}, "cannot step its copies together"),
    ("mamujoco/Reacher-2x1", {"render_mode": "rgb_array"}, "cannot step its copies together"),
    ("jaxmarl/MPE_simple_sprad_v3", {}, "MPE_simple_spread_v3"),
    (SPREAD, {"num_agent": 5}, "takes no num_agent; it takes .*num_agents"),
    (SPREAD, {"action_type": "Both"}, "could not be made with .*Both"),
    (SPREAD, {"render_mode": "rgb_array"}, "cannot be drawn here yet"),
    (f"{SPREAD}-2s3z", {}, "has no maps; those of SMAX"),
    ("jaxmarl/SMAX-2s3y", {}, "no map '2s3y'; there are .*2s3z"),
    ("jaxmarl/SMAX-2s3z", {"map_name": "3m"}, "more than one map"),
    ("jaxmarl/SMAX", {"legs": 4}, "could not be made with .*legs"),
    ("jaxmarl/overcooked_v2", {"layout": "cramped"}, "no map 'cramped'; there are"),
    pytest.param(
        *("jaxmarl/halfcheetah_6x1", {}, "needs a package: .*brax"),
        marks=pytest.mark.skipif(importlib.util.find_spec("brax") is not None, reason="has Brax"),
    ),
    ("jaxmarl/storm_2p", {}, r"InTheGrid_2p: reset\(\) gives no observation for \[0, 1\]"),
    ("vmas/disperson", {}, "dispersion"),
    ("vmas/transport", {"n_agent": 3}, "did you mean 'n_agents'"),
    ("vmas/transport", {"n_agents": 0}, "n_agents is 0"),
    ("vmas/simple", {"n_agents": 3}, "no argument 'n_agents'; it takes: none"),
    (
        "vmas/navigation",
        {"n_agents": 4, "agents_with_same_goal": 9},
        "it needs '1 <= self.agents_with_same_goal <= self.n_agents', line",
    ),
    ("paper/disperson", {}, "dispersion"),
    ("paper/discover", {}, r"known: disp|did you mean discovery"),
    ("paper/samplng", {}, "did you mean 'sampling'"),
    ("paper/discovery", {"n_agnets": 3}, "no argument 'n_agnets'; did you mean 'n_agents'"),
    ("paper/sampling", {"n_agnets": 3}, "no argument 'n_agnets'; did you mean 'n_agents'"),
]


@pytest.mark.parametrize(("env_id", "options", "advice"), ADVISED)
def test_what_cannot_be_made_is_refused_with_advice(env_id, options, advice):
    """An unknown name is answered with the nearest."""
    library = env_id.partition("/")[0]
    needed({"diffsurrogate": "builtin"}.get(library, library))
    if {"batched", "threads"} & {*options}:
        needed("mujoco")
    with pytest.raises(UsageError, match=advice):
        make(env_id, **({"num_envs": 2} | options))


def test_an_unknown_option_of_a_class_names_the_nearest():
    def pendulum() -> Any:
        return gymnasium.make("Pendulum-v1")

    with pytest.raises(UsageError, match=r"not take check_bound; .*did you mean 'check_bounds'"):
        as_multi_agent(pendulum, check_bound=False)
