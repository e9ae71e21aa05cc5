"""`check_gradients` passes right gradients and fails wrong, missing and zero ones."""

import pytest
import torch
from toys.reach import Reach

from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients, extrapolate
from diffsurrogate.gradients.gradient_report import compare
from diffsurrogate.wrappers.builtin.cartpole import CartPoleSwingUp


def scaled(value, factor):
    return value.detach() + factor * (value - value.detach())


def with_reward(change):
    """The cart-pole with a reward that is a function of its own, the env and the next state."""

    class Changed(CartPoleSwingUp):
        def reward(self, state, action, next_state):
            return change(super().reward(state, action, next_state), self, next_state)

    return Changed


def wrong_in_env_3(reward, env, next_state):
    return scaled(reward, torch.where(torch.arange(env.num_envs) == 3, -1.0, 1.0)[:, None])


ScaledReward = with_reward(lambda reward, *_: scaled(reward, 0.5))
WrongInOneEnv = with_reward(wrong_in_env_3)
StepReward = with_reward(lambda reward, *_: torch.sign(reward + 9))  # 0, although a graph exists
InfiniteSlope = with_reward(lambda reward, _, after: reward + (0 * after["cart"]).sqrt()[:, None])


class ScaledDynamics(CartPoleSwingUp):
    def advance(self, state, action):
        return {k: scaled(v, 0.8) for k, v in super().advance(state, action).items()}


class DetachedSpeed(CartPoleSwingUp):
    def advance(self, state, action):
        new = super().advance(state, action)
        return new | {"cart_speed": new["cart_speed"].detach()}


class NoRewardGradient(CartPoleSwingUp):
    true_gradients = frozenset({"dynamics"})


class ShortLife(CartPoleSwingUp):
    """Ends wherever the cart is left of the middle."""

    def terminated(self, state):
        return state["cart"] < 0


def report_of(kind, envs=13, **settings):
    return check_gradients(kind(num_envs=envs, differentiable=True), **settings)


@pytest.mark.parametrize("horizon", [2, 8, 17])
def test_cart_pole_passes(horizon):
    report = report_of(CartPoleSwingUp, horizon=horizon)
    assert report.passed, report
    assert report.dynamics.median_error < 1e-3
    assert report.reward.median_error < 1e-2
    assert report.reward.cosine == pytest.approx(1, abs=1e-3)
    assert str(report).startswith("gradients of CartPoleSwingUp: PASSED")


def test_many_agents_pass():
    """The reward is a parabola: its gradient is exact in a central difference."""
    report = check_gradients(Reach(), horizon=5, tolerance=1e-3)
    assert report.passed, report


def test_half_a_reward_gradient_fails_with_ratio_one_half():
    report = report_of(ScaledReward)
    assert not report.passed
    assert report.reward.ratio == pytest.approx(0.5, abs=0.01)
    assert report.reward.cosine == pytest.approx(1, abs=0.01)
    assert report.dynamics.passed
    assert "reward: off, 0 of 13 envs agree" in str(report)


@pytest.mark.parametrize("kind", [ScaledDynamics, DetachedSpeed])
def test_broken_dynamics_fail(kind):
    report = report_of(kind)
    assert not report.dynamics.passed
    assert report.dynamics.off.all()


def test_the_env_that_is_off_is_named_and_one_in_thirteen_is_forgiven():
    report = report_of(WrongInOneEnv)
    assert report.reward.off.nonzero().flatten().tolist() == [3]
    assert "off: env 3" in str(report)
    assert report.passed  # 12 of 13 is more than 0.9
    assert not report_of(WrongInOneEnv, pass_fraction=1.0).passed


def test_all_zero_reward_gradient_fails_and_is_called_so():
    report = report_of(StepReward)
    assert not report.passed
    assert report.reward.problem is not None
    assert "\nreward: all-zero" in str(report)


def test_missing_graph_fails_and_is_called_so():
    report = report_of(NoRewardGradient)
    assert "\nreward: all-zero, though finite differences in 13 envs are not" in str(report)
    assert "no graph back to the actions" in str(report)
    assert report.dynamics.passed
    plain = check_gradients(CartPoleSwingUp(num_envs=5))
    assert not plain.passed
    assert str(plain).count("no graph back to the actions") == 2


def test_non_finite_gradient_fails_and_is_counted():
    report = report_of(InfiniteSlope)
    assert report.reward.problem == "non-finite in 13 of 13 envs"
    assert not report.passed


def test_envs_reset_within_the_window_are_left_out():
    report = report_of(ShortLife)
    left_out = report.reward.excluded
    assert left_out.any() and not left_out.all()
    assert not (report.reward.checked & left_out).any()
    assert report.passed, report
    assert f"{int(left_out.sum())} envs left out, they were reset" in str(report)


def test_window_longer_than_the_episode_is_refused():
    with pytest.raises(UsageError, match="every env was reset within 8 steps"):
        check_gradients(CartPoleSwingUp(num_envs=5, differentiable=True, max_steps=8))


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"directions": 0}, {"tolerance": 0.0}, {"pass_fraction": 1.5}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        report_of(CartPoleSwingUp, **wrong)


@pytest.mark.parametrize("begun", [False, True])
def test_an_env_that_cannot_save_its_state_is_refused(begun):
    env = make("gymnasium/Pendulum-v1", num_envs=2)
    if begun:
        env.reset(seed=0)
    with pytest.raises(UsageError, match="PendulumEnv cannot save one: Gymnasium has no way"):
        check_gradients(env)


def test_env_is_left_as_it_was():
    env = CartPoleSwingUp(num_envs=5, differentiable=True, max_steps=19)
    env.reset(seed=1)
    env.rollout(lambda obs: torch.ones(5, 1, 1), 7)
    before = env.state()
    check_gradients(env)
    after = env.state()
    assert torch.equal(before["steps"], after["steps"])
    first = env.rollout(lambda obs: torch.ones(5, 1, 1), 23)
    env.set_state(before)
    assert torch.equal(first.obs, env.rollout(lambda obs: torch.ones(5, 1, 1), 23).obs)


def test_richardson_removes_the_cubic_term():
    """Central differences of x^3 at 0 are h^2: .16, .01 for h = .4, .1; the derivative is 0."""
    value, gap = extrapolate(torch.tensor([0.16, 0.01]), shrink=4.0)
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert gap.item() == pytest.approx(0.15)


def test_pair_of_sizes_that_agrees_best_is_used():
    """2 and 2 agree; 7, the smallest size, is rounding."""
    value, gap = extrapolate(torch.tensor([2.0, 2.0, 7.0]), shrink=4.0)
    assert value.item() == pytest.approx(2)
    assert gap.item() == 0


def test_verdicts_are_worked_by_hand():
    """Env 0 agrees, 1 has half, 2 is below rounding, 3 was reset, 4 has the wrong sign."""
    numeric = torch.tensor([[3.0, 3.0, 1e-9, 3.0, 3.0], [4.0, 4.0, 0.0, 4.0, 4.0]]).double()
    factor = torch.tensor([1.0, 0.5, 1.0, 0.0, -1.0]).double()
    part = compare(
        "reward",
        factor * numeric,
        numeric,
        torch.zeros_like(numeric),
        torch.full((5,), 1e-6).double(),
        torch.tensor([False, False, False, True, False]),
        tolerance=0.05,
        pass_fraction=0.9,
    )
    torch.testing.assert_close(part.error[[0, 1, 4]], torch.tensor([0.0, 0.5, 2.0]).double())
    assert part.off.tolist() == [False, True, False, False, True]
    assert part.silent.tolist() == [False, False, True, False, False]
    assert part.ratio == pytest.approx(0.5)  # median of 1, 0.5, -1
    assert not part.passed


def test_vmas_navigation_passes():
    vmas = pytest.importorskip("diffsurrogate.wrappers.vmas.adapter")
    report = check_gradients(vmas.make("navigation", num_envs=7, differentiable=True))
    assert report.passed, report


def test_dispersion_reward_is_all_zero_and_its_dynamics_are_right():
    vmas = pytest.importorskip("diffsurrogate.wrappers.vmas.adapter")
    report = check_gradients(vmas.make("dispersion", num_envs=7, differentiable=True))
    assert "\nreward: all-zero" in str(report)
    assert report.dynamics.passed, report
    assert not report.passed
