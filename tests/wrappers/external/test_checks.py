"""An env that lies is found out: which env, in which step, in which field."""

import itertools
import re
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor
from toys.liar import Liar
from toys.turnover import SIZES, TERMINATE, Turnover

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.checks import ExternalChecks
from diffsurrogate.wrappers.external.spaces import is_too_narrow
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

ENVS = 5
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12


class Vague(SyncVectorEnv):
    """Resets itself and keeps the last observations to itself, or makes up shapes."""

    lie = ""

    def step(self, actions: Any) -> Any:
        obs, reward, terminated, truncated, _ = super().step(actions)
        if self.lie == "obs":
            obs = obs[:, 0]
        if self.lie == "flags":
            terminated = terminated[:, None]
        return obs, reward, terminated, truncated, {}


def liars(lie: str, mode: AutoresetMode, kind: Any = SyncVectorEnv, nested: bool = False) -> Any:
    """Five copies, of which number 3 lies."""
    functions = [lambda i=i: Liar(lie if i == 3 else "", nested) for i in range(ENVS)]
    return kind(functions, autoreset_mode=mode)


def taken_in(lie: str, nested: bool = False) -> MultiAgentVectorEnv:
    """Five envs that the adapter puts together, of which number 3 lies."""
    count = itertools.count()
    return as_multi_agent(lambda: Liar(lie if next(count) == 3 else "", nested), num_envs=ENVS)


def caught(raw: Any, steps: int = 3) -> UsageError:
    """What is raised at the given step after the second reset, before which all is well."""
    env = as_multi_agent(raw)
    nothing = torch.zeros(ENVS, 1, 1)
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(steps - 1):
            env.step(nothing)
    with pytest.raises(UsageError) as error:
        env.step(nothing)
    return error.value


@pytest.mark.parametrize("nested", [False, True])
def test_numbers_outside_of_the_space_are_refused_unless_one_says_otherwise(nested):
    at = "['eye'][1, 2]" if nested else "[1, 2]"
    for lie, field in [("far", "observation"), ("end far", "final_obs")]:
        error = caught(liars(lie, AutoresetMode.SAME_STEP, nested=nested))
        assert str(error) == (
            f"Liar: the {field} of env 3 at step 3 is outside of its space: 8 at {at}, "
            "where the space has [-7, 7]; widen the observation space, or pass check_bounds=False"
        )
    env = as_multi_agent(liars("far", AutoresetMode.DISABLED, nested=nested), check_bounds=False)
    env.reset(seed=0)
    assert env.rollout(lambda obs: torch.zeros(ENVS, 1, 1), 5).next_obs.max() == 8


@pytest.mark.parametrize(
    "name",
    ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"],
)
def test_gymnasiums_own_envs_keep_their_bounds(name):
    env = make(f"gymnasium/{name}", num_envs=3)
    assert env._bounds is not None
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, env.act_dim)
    span = env.action_high - env.action_low
    for step in range(300):
        if step % 40 == 0:  # what pushes on in one direction gets fastest
            action = env.action_low + span * torch.rand(shape, generator=generator).round()
        env.step(action)


def test_copies_whose_spaces_differ_keep_the_widest():
    class Narrow(Liar):
        def __init__(self, width: float) -> None:
            super().__init__()
            self.observation_space = spaces.Box(-width, width, (2, 3))

    functions = [lambda width=width: Narrow(width) for width in (5.0, 7.0)]
    raw = SyncVectorEnv(
        functions, observation_mode="different", autoreset_mode=AutoresetMode.DISABLED
    )
    env = as_multi_agent(raw)
    assert (env.reset(seed=0)[0] == 7).all()


def test_a_lander_may_leave_its_bounds():
    assert is_too_narrow(gymnasium.spec("LunarLander-v3"))
    assert is_too_narrow(gymnasium.spec("LunarLanderContinuous-v3"))
    assert not is_too_narrow(gymnasium.spec("CartPole-v1"))
    assert not is_too_narrow(None)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["ours", "made elsewhere"])
@pytest.mark.parametrize(
    ("lie", "advice"),
    [
        (
            "nan",
            "the observation of env 3 at step 3 of its episode is not finite: nan for agent .* at",
        ),
        ("reward", "the reward of env 3 at step 3 of its episode is not finite: nan for agent"),
        ("nothing", "the reward of env 3 at step 3 of its episode is not finite: nan for agent"),
        (
            "array",
            r"env 3 failed at step 3 in step\(\): its reward has shape \(2,\); \(\) is needed",
        ),
        ("shape", r"env 3 failed at step 3 in step\(\): its observation has shape \(2, 2\)"),
        ("raise", r"env 3 failed at step 3 in step\(\): KeyError: 'wheel' \(liar.py:"),
    ],
)
def test_a_lie_names_the_env_the_step_and_the_field(lie, advice, elsewhere):
    error = caught(liars(lie, AutoresetMode.SAME_STEP) if elsewhere else taken_in(lie))
    if elsewhere and lie in ("array", "shape", "raise"):
        advice = r"one of the 5 envs failed at step 3 in step\(\): (Value|Key)Error: "
    assert re.search(advice, str(error))
    assert str(error).startswith("Liar: ")
    assert isinstance(error.__cause__, KeyError) == (lie == "raise")


def test_a_lie_about_the_end_or_a_reset_is_named_too():
    nested = caught(liars("nan", AutoresetMode.DISABLED, nested=True))
    assert "env 3 at step 3 of its episode is not finite: nan for agent" in str(nested)
    for nested in (False, True):
        shape = caught(liars("end shape", AutoresetMode.SAME_STEP, nested=nested))
        assert "the final_obs of env 3 at step 3 has shape (4,); (6,) is needed" in str(shape)
        last = caught(liars("end nan", AutoresetMode.SAME_STEP, nested=nested))
        assert "the observation of env 3 at step 3 of its episode is not finite: nan" in str(last)
    fresh = caught(liars("reset nan", AutoresetMode.DISABLED))
    assert "the observation of env 3 at the reset after step 3 of its episode" in str(fresh)
    fresh = caught(taken_in("reset shape"))
    assert "env 3 failed at step 3 in reset(): its observation has shape (2, 2)" in str(fresh)


def test_a_vector_env_that_lies_as_a_whole_is_named():
    assert 'env 3 gave no info["final_obs"] at step 3' in str(
        caught(liars("end", AutoresetMode.SAME_STEP, Vague))
    )
    raw = liars("", AutoresetMode.DISABLED, Vague)
    raw.lie = "obs"
    env = as_multi_agent(raw)
    env.reset()
    with pytest.raises(UsageError, match=r"all envs at step 1 has shape \(5, 3\).*\(5, 2, 3\)"):
        env.step(torch.zeros(ENVS, 1, 1))
    raw.lie = "flags"
    with pytest.raises(UsageError, match=r"terminated of all envs at step 2 has shape \(5, 1\)"):
        env.step(torch.zeros(ENVS, 1, 1))


def test_a_failed_reset_is_named():
    env = taken_in("")
    env.raw.envs[2].env.reset = lambda **settings: 1 / 0
    with pytest.raises(UsageError, match=r"env 2 failed at the reset in reset\(\): ZeroDivision"):
        env.reset()


class Formless(gymnasium.Env):
    """Returns what it is told to."""

    observation_space = spaces.Dict(
        goal=spaces.Box(-7, 7, (2,)), body=spaces.Dict(arm=spaces.Box(-7, 7, (3,)))
    )
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, obs: Any = None, rest: tuple[Any, ...] = (0.0, False, False, {})) -> None:
        whole = {"goal": np.zeros(2), "body": {"arm": np.zeros(3)}}
        self.obs, self.rest = whole if obs is None else obs, rest

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, *self.rest


class Seedless(Formless):
    def reset(self):
        return self.obs, {}


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (lambda: Formless({"goal": np.zeros(2)}), r"its observation\['body'\] is missing"),
        (
            lambda: Formless({"goal": np.zeros(2), "body": {"arm": np.zeros(5)}}),
            r"its observation\['body'\]\['arm'\] has shape \(5,\); \(3,\) is needed",
        ),
        (lambda: Formless(np.zeros(5)), "its observation is a ndarray; a dict with goal, body is"),
        (lambda: Formless(rest=(0.0, False, {})), "it returned 4 values; give obs, reward, term"),
        (lambda: Seedless(), r"got an unexpected keyword argument 'seed'$"),
    ],
)
def test_the_form_of_what_a_copy_returns_is_named(kind, advice):
    env = as_multi_agent(kind, num_envs=2)
    with pytest.raises(UsageError, match=rf"less: env 0 failed .*{advice}"):
        env.reset(seed=0)
        env.step(torch.zeros(2, 1, 1))


def test_messages_name_the_users_class():
    env = as_multi_agent(lambda: gymnasium.wrappers.TimeLimit(Liar(), 9), num_envs=2)
    assert repr(env).startswith("<GymnasiumEnv of Liar: num_envs=2")
    with pytest.raises(UsageError, match="Liar has no dynamics gradient"):
        env.enable_gradients("dynamics")
    assert as_multi_agent(SyncVectorEnv([Liar] * 2)).name_in_errors == "Liar"


@forks
@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")
def test_an_exception_in_another_process_is_passed_on():
    raw = liars("raise", AutoresetMode.SAME_STEP, AsyncVectorEnv)
    error = caught(raw, steps=3)
    assert "AsyncVectorEnv: one of the 5 envs failed at step 3 in step(): KeyError" in str(error)
    assert isinstance(error.__cause__, KeyError)
    assert not any(process.is_alive() for process in raw.processes)
    raw.close()


def test_what_is_not_numbers_of_the_shape_is_named():
    checks = ExternalChecks("MyEnv", 2)
    for given, advice in [
        (
            [[1.0, 2.0], [1.0]],
            r"the place of env 1 at the reset has shape \(1,\); \(2,\) is needed",
        ),
        ([[1.0, 2.0], ["a", "b"]], r"the place of env 1 at the reset is not numbers of shape"),
        ([[1.0, 2.0]], r"the place of all envs at the reset has shape \(1, 2\)"),
        (None, r"the place of all envs at the reset has shape \(\)"),
        ({"place": 1.0}, r"the place of all envs at the reset is a dict; numbers .* = \(2, 2\)"),
    ]:
        with pytest.raises(UsageError, match="MyEnv: " + advice):
            checks.batch("place", given, (2,))
    assert checks.batch("place", [[1, 2], (3, 1e300)], (2,)).tolist() == [[1, 2], [3, np.inf]]


def test_a_failure_of_unknown_origin_is_nobodys():
    checks = ExternalChecks("MyEnv", 2)
    checks.step = 5
    for raw in (None, SyncVectorEnv([Liar] * 2)):
        with pytest.raises(
            UsageError, match=r"one of the 2 envs failed at step 5 in step\(\): OSErr"
        ):
            with checks.calling("step()", raw):
                raise OSError("gone")
    with pytest.raises(UsageError, match="env 1 failed at step 5 in talking: ValueError: no"):
        with checks.calling("talking", index=1):
            raise ValueError("no")
    with pytest.raises(UsageError, match=r"^said before$"), checks.calling("step()"):
        raise UsageError("said before")


def forked() -> SubprocVecEnv:
    return SubprocVecEnv([Liar] * ENVS, start_method="fork")


def asynchronous() -> AsyncVectorEnv:
    return liars("", AutoresetMode.DISABLED, AsyncVectorEnv)


@forks
@pytest.mark.parametrize("make_raw", [asynchronous, forked])
def test_a_process_that_dies_is_named_and_the_env_is_closed(make_raw):
    raw = make_raw()
    env = as_multi_agent(raw)
    env.reset(seed=0)
    raw.processes[3].kill()
    with pytest.raises(UsageError, match=r"env 3 failed at step 1.* process died, exit code -9"):
        env.step(torch.zeros(ENVS, 1, 1))
    closes_soon(env, raw)
    if make_raw is asynchronous:
        with pytest.raises(UsageError, match=r"one of the 5 envs failed at step 2 .*Closed"):
            env.step(torch.zeros(ENVS, 1, 1))


@forks
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("make_raw", [asynchronous, forked])
def test_an_env_whose_process_died_can_be_closed(make_raw, pending):
    raw = make_raw()
    env = LearnedDiffWrapper(VecMonitor(raw) if make_raw is forked else raw)
    env.reset(seed=0)
    if pending:  # as where the user interrupts a step
        raw.step_async(np.zeros((ENVS, 1), np.float32))
    raw.processes[3].kill()
    raw.processes[3].join()
    closes_soon(env, raw)


def closes_soon(env: MultiAgentVectorEnv, raw: Any) -> None:
    """Close an env in a thread, which must end, as all its processes must."""
    closing = threading.Thread(target=env.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert not any(process.is_alive() for process in raw.processes)


@pytest.mark.parametrize(
    "reward",
    [np.float16(0.25), np.array([0.25]), torch.tensor([0.25]), torch.tensor(0.25).requires_grad_()],
)
def test_a_reward_may_be_any_one_number(reward):
    for raw in (Paying, PayingAll):
        env = as_multi_agent(lambda raw=raw: raw(reward), num_envs=2, max_steps=3)
        env.reset()
        assert (env.step(torch.zeros(2, env.num_agents, env.act_dim))[1] == 0.25).all()


class Paying(Liar):
    """Pays what it is told to."""

    def __init__(self, reward: Any) -> None:
        super().__init__("")
        self.reward = reward

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, self.reward, *rest


class PayingAll(Turnover):
    """Pays every agent so."""

    def __init__(self, reward: Any) -> None:
        super().__init__(dict.fromkeys(SIZES, (9, TERMINATE)))
        self.reward = reward

    def step(self, actions: Any) -> Any:
        obs, rewards, *rest = super().step(actions)
        return obs, dict.fromkeys(rewards, self.reward), *rest
