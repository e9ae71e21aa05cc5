"""A `VecEnv` of Stable-Baselines3 keeps its numbers and its ends behind our protocol."""

import functools
import multiprocessing
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from toys.liar import Liar

from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.sb3.adapter import AdaptedVecEnv
from diffsurrogate.wrappers.sb3.export import SB3VecEnv

ENVS = 5


class Careless(DummyVecEnv):
    """Says nothing about how episodes ended."""

    def step_wait(self) -> Any:
        obs, reward, done, _ = super().step_wait()
        return obs, reward, done, [{} for _ in done]


def cartpole(num_envs: int = ENVS, limit: int = 13) -> VecEnv:
    return make_vec_env(lambda: gymnasium.make("CartPole-v1", max_episode_steps=limit), num_envs)


def pendulum(num_envs: int = ENVS, limit: int = 11) -> VecEnv:
    return make_vec_env(lambda: gymnasium.make("Pendulum-v1", max_episode_steps=limit), num_envs)


def liars(lie: str, kind: type[VecEnv] = DummyVecEnv) -> VecEnv:
    """Five copies, of which number 3 lies."""
    functions = [lambda i=i: Liar(lie if i == 3 else "") for i in range(ENVS)]
    return kind(functions)


def spaced(**other: spaces.Space[Any]) -> VecEnv:
    """Return one with other spaces."""
    raw = liars("")
    vars(raw).update(other)
    return raw


def stacked() -> VecEnv:
    return VecFrameStack(VecNormalize(pendulum()), 2)


@pytest.mark.parametrize("make_raw", [cartpole, pendulum, stacked])
def test_in_and_out_again_is_the_vec_env_bit_for_bit(make_raw):
    """What its wrappers make of the numbers, too; slots are the adapted env's own numbers."""
    env, raw = as_multi_agent(make_raw()), make_raw()
    assert isinstance(env, AdaptedVecEnv)
    vec = SB3VecEnv(env)
    for one in (vec, raw):
        one.seed(3)
    assert (vec.reset() == raw.reset()).all()
    rng, falls, cuts = np.random.default_rng(0), 0, 0
    for step in range(70):
        if env.discrete_actions:
            given: Any = (rng.random(ENVS) < 0.85).astype(int)
            given[0] = step % 2  # stays up until its time is over
        else:
            given = rng.uniform(-3, 3, (ENVS, 1)).astype(np.float32)  # the box is ±2
        obs, reward, done, infos = vec.step(given)
        rows, expected, ended, said = raw.step(given)
        assert (obs == rows).all()
        assert (reward == expected).all()
        assert (done == ended).all()
        for index in np.flatnonzero(done):
            ours, theirs = infos[index], said[index]
            assert ours["TimeLimit.truncated"] == theirs["TimeLimit.truncated"]
            assert (ours["terminal_observation"] == theirs["terminal_observation"]).all()
            cuts += theirs["TimeLimit.truncated"]
            falls += not theirs["TimeLimit.truncated"]
    assert cuts > 0
    assert (falls > 0) == (make_raw is cartpole)


# --- misuse and lies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_raw", "options", "advice"),
    [
        (cartpole, {"num_envs": 2}, "num_envs is 2, but this vector env has 5 envs"),
        (cartpole, {"max_steps": 9}, "max_episode_steps=9"),
        (
            lambda: SB3VecEnv(make("diffsurrogate/cartpole-swingup", num_envs=2)),
            {},
            r"one of our envs already.*\.env",
        ),
        (
            lambda: VecMonitor(SB3VecEnv(make("diffsurrogate/cartpole-swingup", num_envs=2))),
            {},
            "its slots are agents",
        ),
        (
            lambda: spaced(observation_space=spaces.Dict({"eye": spaces.Box(0, 1, (2,))})),
            {},
            r"observations of Dict\('eye': Box.*FlattenObservation",
        ),
        (lambda: spaced(observation_space=spaces.Discrete(3)), {}, r"observations of Discrete\(3"),
        (
            lambda: spaced(action_space=spaces.MultiBinary(3)),
            {},
            r"actions of MultiBinary\(3",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(make_raw, options, advice):
    with pytest.raises(UsageError, match=advice):
        as_multi_agent(make_raw(), **options)


LIES: list[tuple[str, str]] = [
    (
        "nan",
        r"Liar: the observation of env 3 at step 3 .* is not finite: nan for .* at \[5\]",
    ),
    (
        "reward",
        "the reward of env 3 at step 3 of its episode is not finite: nan for .*; mend the env",
    ),
    ("array", r"one of the 5 envs failed at step 3 in step\(\): (Type|Value)Error: "),
    ("far", r"the observation of env 3 at step 3 is outside of its space: 8 at \[1, 2\], where"),
    ("end far", r"terminal_observation of env 3 at step 3 is outside .*: 8 at \[1, 2\].*=False"),
    ("shape", r"one of the 5 envs failed at step 3 in step\(\): ValueError: could"),
    ("raise", r"one of the 5 envs failed at step 3 in step\(\): KeyError: 'wheel'"),
]


@pytest.mark.parametrize(("lie", "advice"), LIES, ids=[lie for lie, _ in LIES])
@pytest.mark.parametrize("wrap", [lambda raw: raw, VecMonitor], ids=["bare", "wrapped"])
def test_a_lie_names_the_step_and_the_field(
    lie: str, advice: str, wrap: Callable[[VecEnv], VecEnv]
):
    env = as_multi_agent(wrap(liars(lie)))
    for _ in range(2):  # steps count from the last reset
        env.reset()
        env.rollout(lambda obs: torch.zeros(ENVS, 1, 1), 2)
    with pytest.raises(UsageError, match=advice) as caught:
        env.step(torch.zeros(ENVS, 1, 1))
    if lie in ("shape", "raise"):
        assert isinstance(caught.value.__cause__, ValueError | KeyError)


def test_bounds_need_not_be_kept_where_one_says_so_or_where_they_are_of_other_numbers():
    env = as_multi_agent(liars("far"), check_bounds=False)
    env.reset()
    assert env.rollout(lambda obs: torch.zeros(ENVS, 1, 1), 3).next_obs.max() == 8
    assert as_multi_agent(liars("far"))._bounds is not None
    assert as_multi_agent(VecNormalize(liars("far")))._bounds is None
    assert as_multi_agent(VecNormalize(liars("far"), norm_obs=False))._bounds is not None
    fast = as_multi_agent(
        VecFrameStack(pendulum(), 2), seed=0
    )  # the speed is bounded at an angle's
    fast.reset()
    last = fast.rollout(lambda obs: torch.full((ENVS, 1, 1), 2.0), 9).next_obs[-1]
    assert last[:, 0, [2, 5]].abs().max() > 1


def test_an_end_without_its_last_observation_is_a_lie():
    env = as_multi_agent(liars("end", Careless))
    env.reset()
    env.rollout(lambda obs: torch.zeros(ENVS, 1, 1), 2)
    with pytest.raises(UsageError, match=r'env 3 gave no info\["terminal_observation"\] at step 3'):
        env.step(torch.zeros(ENVS, 1, 1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_an_error_in_another_process_is_one_however_it_was_started(method):
    multiprocessing.set_forkserver_preload(["toys.liar", "stable_baselines3"])  # once for both
    copies = [Liar, functools.partial(Liar, "raise")]
    env = as_multi_agent(SubprocVecEnv(copies, start_method=method))  # type: ignore[arg-type]
    env.reset()
    env.rollout(lambda obs: torch.zeros(2, 1, 1), 2)
    with pytest.raises(UsageError, match=r"env 1 failed at step 3 .* process died, exit code 1"):
        env.step(torch.zeros(2, 1, 1))
    assert not any(process.is_alive() for process in env.raw.processes)
    env.close()
