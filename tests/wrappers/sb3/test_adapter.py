"""A `VecEnv` of Stable-Baselines3 keeps its numbers and its ends behind our protocol."""

import functools
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


@pytest.mark.parametrize("make_raw", [cartpole, pendulum])
def test_values_and_ends_are_the_vec_envs_bit_for_bit(make_raw):
    env, raw = as_multi_agent(make_raw()), make_raw()
    assert isinstance(env, AdaptedVecEnv)
    obs, _ = env.reset(seed=3)
    raw.seed(3)
    rows = raw.reset()
    rng = np.random.default_rng(0)
    falls = cuts = 0
    for step in range(70):
        assert obs.shape == (ENVS, 1, env.obs_dim)
        assert (obs[:, 0].numpy() == rows).all()
        if env.discrete_actions:
            given: Any = (rng.random(ENVS) < 0.85).astype(int)
            given[0] = step % 2  # stays up until its time is over
            action = torch.nn.functional.one_hot(torch.tensor(given), 2).float()[:, None]
        else:
            action = torch.tensor(rng.uniform(-3, 3, (ENVS, 1, 1)), dtype=torch.float32)
            given = action[:, 0].clamp(-2, 2).numpy()
        obs, reward, terminated, truncated, info = env.step(action)
        rows, expected, done, infos = raw.step(given)
        assert reward.shape == (ENVS, 1)
        assert (reward[:, 0].numpy() == expected).all()
        assert (terminated | truncated).tolist() == done.tolist()
        assert info["_final_obs"].tolist() == done.tolist()
        for index in range(ENVS):
            cut = infos[index].get("TimeLimit.truncated", False)
            assert truncated[index] == (done[index] and cut)
            assert terminated[index] == (done[index] and not cut)
            last = infos[index]["terminal_observation"] if done[index] else rows[index]
            assert (info["final_obs"][index, 0].numpy() == last).all()
        falls, cuts = falls + int(terminated.sum()), cuts + int(truncated.sum())
    assert cuts > 0
    assert (falls > 0) == (make_raw is cartpole)


def test_what_its_wrappers_make_of_the_numbers_comes_through():
    def wrapped() -> VecEnv:
        return VecFrameStack(VecNormalize(pendulum()), 2)

    env, raw = as_multi_agent(wrapped()), wrapped()
    obs, _ = env.reset(seed=1)
    raw.seed(1)
    assert env.obs_dim == 6
    assert (obs[:, 0].numpy() == raw.reset()).all()
    for _ in range(23):
        obs, reward, _, cut, info = env.step(torch.ones(ENVS, 1, 1))
        rows, expected, _, infos = raw.step(np.ones((ENVS, 1), np.float32))
        assert (obs[:, 0].numpy() == rows).all()
        assert (reward[:, 0].numpy() == expected).all()
        for index in np.flatnonzero(cut):
            last = infos[index]["terminal_observation"]
            assert (info["final_obs"][index, 0].numpy() == last).all()


# --- training ------------------------------------------------------------------------------------


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
    ("nan", r"DummyVecEnv: the observation of env 3 at step 3 is not finite: nan at \[1, 2\]"),
    ("reward", "the reward of env 3 at step 3 is not finite: nan; mend the env"),
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


def test_an_end_without_its_last_observation_is_a_lie():
    env = as_multi_agent(liars("end", Careless))
    env.reset()
    env.rollout(lambda obs: torch.zeros(ENVS, 1, 1), 2)
    with pytest.raises(UsageError, match=r'env 3 gave no info\["terminal_observation"\] at step 3'):
        env.step(torch.zeros(ENVS, 1, 1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_an_error_in_another_process_is_one_however_it_was_started(method):
    copies = [Liar, functools.partial(Liar, "raise")]
    env = as_multi_agent(SubprocVecEnv(copies, start_method=method))  # type: ignore[arg-type]
    env.reset()
    env.rollout(lambda obs: torch.zeros(2, 1, 1), 2)
    with pytest.raises(UsageError, match=r"env 1 failed at step 3 .* process died, exit code 1"):
        env.step(torch.zeros(2, 1, 1))
    assert not any(process.is_alive() for process in env.raw.processes)
    env.close()
