"""An env that lies is found out in every step: which copy, in which step, in which field."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.adder import Savable
from toys.reach import AGENTS, ENVS, OBS, Reach

from diffsurrogate.envs.checks import StepChecks
from diffsurrogate.envs.torch_env import TorchState
from diffsurrogate.errors import UsageError

NAN, INF = float("nan"), float("inf")
STILL = torch.zeros(ENVS, AGENTS, 2)


class RuleBreaker(Reach):
    """Honest until the given call of one of its functions, then as told."""

    def __init__(self, method: str, call: int, lie: Any, **settings: Any) -> None:
        self.method, self.call, self.lie, self.calls = method, call, lie, 0
        super().__init__(**settings)

    def said(self, method: str, truth: Any) -> Any:
        if method != self.method:
            return truth
        self.calls += 1
        return self.lie(truth) if self.calls == self.call else truth

    def observe(self, state: TorchState) -> Tensor:
        return self.said("observe", super().observe(state))

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return self.said("advance", super().advance(state, action))

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return self.said("reward", super().reward(state, action, next_state))

    def terminated(self, state: TorchState) -> Tensor:
        return self.said("terminated", super().terminated(state))


class Engine(Savable):
    """A direct subclass of the protocol, whose every answer passes through `tell`."""

    def tell(self, field: str, truth: Any) -> Any:
        return truth

    def _reset_all(self, seed: int | None) -> Tensor:
        return self.tell("start", super()._reset_all(seed))

    def _reset_where(self, mask: Tensor) -> Tensor:
        return self.tell("restart", super()._reset_where(mask))

    def _advance(self, action: Tensor) -> Any:
        obs, reward, terminated = super()._advance(action)
        return self.tell(
            "step",
            (
                self.tell("observation", obs),
                self.tell("reward", reward),
                self.tell("terminated", terminated),
            ),
        )

    def _cut_short(self) -> Tensor:
        return self.tell("truncated", super()._cut_short())


def spoilt(place: tuple[int, ...], value: float = NAN) -> Any:
    def lie(truth: Tensor) -> Tensor:
        changed = truth.clone()
        changed[place] = value
        return changed

    return lie


def fail(truth: Any) -> Any:
    raise ZeroDivisionError("by hand")


@pytest.mark.parametrize(
    ("method", "lie", "advice"),
    [
        ("reward", spoilt((4, 2)), "reward of env 4 at step 3 of its episode is not finite: nan"),
        ("reward", spoilt((4, 2), -INF), "is not finite: -inf for agent 'agent_2'; mend the env"),
        (
            "reward",
            lambda r: r[:, 0],
            r"RuleBreaker.reward returned shape \(7,\); .*\(all envs, at step 3",
        ),
        ("reward", lambda r: r.double(), r"torch.float32 is needed \(all envs, at step 3 of their"),
        ("terminated", lambda t: t[:, None], r"returned shape \(7, 1\); \(env\) = \(7,\) .*step 3"),
        ("advance", lambda s: {"x": s["x"][:5]}, r"advance\['x'\] has shape \(5, 3, 2\).*step 3"),
        ("advance", fail, r"RuleBreaker.advance raised ZeroDivisionError: by hand \(test_.*step 3"),
        (
            "reward",
            fail,
            r"RuleBreaker.reward raised ZeroDivisionError.*at step 3 of their episodes\)",
        ),
    ],
)
def test_a_violation_in_a_later_step_is_named(method, lie, advice):
    env = RuleBreaker(method, 3, lie)
    env.reset(seed=0)
    env.rollout(lambda obs: STILL, 2)
    with pytest.raises(UsageError, match=advice) as caught:
        env.step(STILL)
    if lie is fail:
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.__cause__.__traceback__ is not None


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (
            1,
            "RuleBreaker: the observation of env 5 at the reset is not finite: inf for agent "
            "'agent_1' at",
        ),
        (4, "RuleBreaker: the observation of env 5 at step 3 of its episode is not finite"),
        (9, "RuleBreaker: the observation of env 5 at step 8 of its episode is not finite"),
        (10, "the observation of env 5 at the reset after step 8 of its episode is not finite"),
        (11, "RuleBreaker: the observation of env 5 at step 1 of its episode is not finite"),
    ],
)
def test_a_non_finite_observation_is_named_before_a_policy_acts_on_it(call, advice):
    env = RuleBreaker("observe", call, spoilt((5, 1, 4), INF))  # resets after its eighth step
    with pytest.raises(UsageError, match=re.escape(advice)):
        env.reset(seed=0)
        env.rollout(lambda obs: STILL, call)
    if call > 1:
        assert env.current_obs.isfinite().all()


@pytest.mark.parametrize(
    ("field", "lie", "advice"),
    [
        (
            "observation",
            lambda o: o[:, 0],
            r"the observation of all envs at step 3 of their episod",
        ),
        ("observation", lambda o: o[..., :4], r"has shape \(7, 3, 4\); \(env, agent, obs_dim\) = "),
        (
            "observation",
            spoilt((2, 1, 3)),
            r"observation of env 2 at step 3 .* for agent 'b' at \[3",
        ),
        ("observation", lambda o: o.long(), "has dtype torch.int64; torch.float32 is needed"),
        (
            "reward",
            lambda r: r.sum(1),
            r"reward .* shape \(7,\); \(env, agent\) = \(7, 3\) is needed",
        ),
        ("reward", lambda r: 1.0, "the reward of all envs .* is a float; a torch.Tensor"),
        ("reward", spoilt((6, 0), INF), "the reward of env 6 at step 3 .* inf for agent 'a'; mend"),
        (
            "terminated",
            lambda t: t[0],
            r"terminated of all envs .* has shape \(\); \(env,\) = \(7,\)",
        ),
        ("terminated", lambda t: t.float(), "terminated .* dtype torch.float32; torch.bool is"),
        ("truncated", lambda t: t[:5], r"the truncated of all envs .* has shape \(5,\)"),
        (
            "step",
            lambda s: s[:2],
            r"Engine._advance of all envs failed at step 3 .* ValueError: not",
        ),
        ("step", fail, r"Engine._advance of all envs failed at step 3 of their episodes: ZeroDiv"),
        ("truncated", fail, "Engine._cut_short of all envs failed at step 3"),
        ("restart", fail, "Engine._reset_where of all envs failed at step 3"),
        ("restart", lambda o: o[:, :2], r"at the reset after step 3 .* has shape \(7, 2, 5\)"),
        ("restart", spoilt((1, 0, 0)), "of env 1 at the reset after step 3 of its episode is not"),
    ],
)
def test_a_violation_by_an_env_of_any_kind_is_named(field, lie, advice):
    env = Engine(max_steps=3)
    env.reset(seed=0)
    for _ in range(2):
        env.step(STILL)
    before = env.current_obs
    env.tell = lambda said, truth: lie(truth) if said == field else truth  # type: ignore[assignment]
    with pytest.raises(UsageError, match=advice) as caught:
        env.step(STILL)
    assert str(caught.value).startswith("Engine")
    assert env.current_obs is before


def test_a_violation_at_reset_is_named():
    env = Engine()
    for lie, advice in [
        (lambda o: o[0], r"observation of all envs at the reset has shape \(3, 5\)"),
        (spoilt((3, 2, 1)), r"of env 3 at the reset is not finite: nan for agent 'c' at \[1\]"),
        (fail, "Engine._reset_all of all envs failed at the reset: ZeroDivisionError: by hand"),
    ]:
        env.tell = lambda said, truth, lie=lie: lie(truth)  # type: ignore[assignment]
        with pytest.raises(UsageError, match=advice):
            env.reset()


def test_the_step_is_that_of_the_copys_own_episode():
    env = Reach()
    env.reset(seed=0)
    env._episodes.steps = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    right = env.reward
    env.reward = lambda *given: spoilt((4, 1))(right(*given))  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="env 4 at step 5 of its episode"):
        env.step(STILL)
    env.reward = lambda *given: right(*given)[0]  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"\(all envs, at steps 2 to 8 of their episodes\)"):
        env.step(STILL)


def test_large_finite_numbers_pass_though_their_sum_is_infinite():
    checks = StepChecks("MyEnv", ["a", "b", "c"], (2, 3, 2), bounds=None)
    most = torch.finfo(torch.float32).max
    steps = torch.ones(2, dtype=torch.long)
    obs, reward = torch.full((2, 3, 2), most), torch.full((2, 3), -most)
    assert checks.broken(steps, obs, reward, allowed=False) is None
    with pytest.raises(
        UsageError, match=r"the reward of env 1 at step 1 .* nan for agent 'b'; mend"
    ):
        checks.broken(steps, obs, spoilt((1, 1))(reward), allowed=False)
    both = spoilt((1, 0, 0), -INF)(spoilt((0, 2, 1), INF)(obs))  # whose sum is not a number
    with pytest.raises(UsageError, match=r"of env 0 .* inf for agent 'c' at \[1\]"):
        checks.broken(steps, both, reward, allowed=False)
    one = spoilt((1, 0, 0), -INF)(obs)
    assert checks.broken(steps, one, reward, allowed=True).tolist() == [False, True]


class InPlace(Reach):
    """Moves its points where they are, and shows the very tensor they are in."""

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        state["x"].add_(0.5 * action.repeat(1, 1, 3)[..., :OBS])
        return state

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.rand(count, AGENTS, OBS, generator=generator)}


class Buffer(Engine):
    """Writes what it observes after a reset over what it observed before."""

    def _reset_where(self, mask: Tensor) -> Tensor:
        return self.last.zero_()

    def tell(self, field: str, truth: Any) -> Any:
        if field == "observation":
            self.last = truth
        return truth


def test_old_observations_are_not_written_over():
    env = InPlace(differentiable=False)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"at step 1 .*into the tensor of the one before.*a clone"):
        env.step(STILL)


def test_a_reset_leaves_the_last_observation_alone():
    env = Buffer(max_steps=2)
    env.reset(seed=0)
    env.step(STILL)
    with pytest.raises(
        UsageError, match=r"at the reset after step 2 .*the tensor of the one before"
    ):
        env.step(STILL)
