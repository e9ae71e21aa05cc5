"""Envs that know their contacts are judged in and out of contact; a bouncing point, by hand."""

import pytest
import torch
from toys.bouncer import Bouncer

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.gradients.gradient_report import GradientReport
from diffsurrogate.wrappers.base import EnvWrapper
from diffsurrogate.wrappers.builtin.cartpole import CartPoleSwingUp

AIR, FLOOR = 2.0, 0.1  # falls by 0.25 to 0.75: does not reach the floor, and surely bounces


def at_the_kink(envs: int) -> list[float]:
    """Heights from which the checked action (seed 0) leads to 0.001 above the floor.

    An action smaller by 0.002 reaches it: within the step sizes 0.04 and 0.01.
    """
    action = torch.rand(1, envs, 1, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    return ((1 - action) / 2 + 0.001).flatten().tolist()


def report_of(heights: list[float], factors: list[float], **settings: object) -> GradientReport:
    return check_gradients(Bouncer(heights, factors=factors), **settings)


def test_the_report_splits_counts_and_names():
    """Of 4 in the air and 5 on the floor one is off by 0.2, one at the kink, one infinite."""
    heights = [AIR] * 4 + [FLOOR] * 3 + [at_the_kink(9)[7], FLOOR]
    env = Bouncer(heights, factors=[1.0] * 5 + [0.8] + [1.0] * 3, infinite=(8,))
    report = check_gradients(env)
    assert report.passed
    assert report.horizon == 1
    for part in (report.reward, report.dynamics):
        assert part.contact.tolist() == [False] * 4 + [True] * 5
        assert part.off.nonzero().flatten().tolist() == [5]
        assert part.unclear.nonzero().flatten().tolist() == [7]
        assert part.non_finite.nonzero().flatten().tolist() == [8]
        assert part.checked.tolist() == [True] * 7 + [False] * 2
        assert part.error[5].item() == pytest.approx(0.2, abs=1e-3)
        assert part.median_error < 1e-3
    out_of, within, left_out, off = str(report.reward).splitlines()[1:]
    assert out_of.startswith("  out of contact: median error ")
    assert out_of.endswith("(at most 0.01 passes), 4 of 4 envs within 5 %")
    assert within.startswith("  in contact: median error ")
    assert within.endswith("(at most 0.05 passes), 2 of 3 envs within 5 %")
    assert left_out == (
        "  left out: 1 (1 in contact), not finite; 1 (1 in contact), finite differences disagree "
        "with each other"
    )
    assert off == "  off: env 5 (0.2, in contact)"


@pytest.mark.parametrize(
    ("air", "floor", "passes"),
    [
        (0.995, 0.96, True),
        (0.985, 1.0, False),  # though all are within 5 %
        (1.0, 0.94, False),
    ],
    ids=["0.5 % and 4 %", "1.5 % in the air", "6 % on the floor"],
)
def test_medians_decide(air, floor, passes):
    report = report_of([AIR] * 3 + [FLOOR] * 3, [air] * 3 + [floor] * 3)
    assert report.passed is passes
    assert report.reward.error[0].item() == pytest.approx(1 - air, abs=1e-3)
    assert report.reward.error[3].item() == pytest.approx(1 - floor, abs=1e-3)


def test_outliers_are_forgiven_and_the_worst_is_named_first():
    report = report_of([AIR] * 5 + [FLOOR] * 2, [1.0, 0.9, 1.0, 0.7, 1.0, 1.0, 1.0])
    assert report.passed
    assert "  off: env 3 (0.3, out of contact), 1 (0.1, out of contact)" in str(report)


def test_only_one_kind_of_envs_is_judged_alone():
    report = report_of([AIR] * 3, [0.9] * 3)
    assert not report.passed
    assert "  in contact: no env" in str(report)


def test_all_zero_gradients_fail():
    report = report_of([AIR] * 3 + [FLOOR] * 2, [0.0] * 5)
    assert not report.passed
    assert report.reward.problem == "all-zero, though finite differences in 5 envs are not"


def test_gradients_that_are_nowhere_finite_fail():
    report = check_gradients(Bouncer([AIR, FLOOR, FLOOR], infinite=(0, 1, 2)))
    assert not report.passed
    assert report.reward.problem == "non-finite in 3 of 3 envs"


def test_a_verdict_needs_half_of_the_envs():
    kinks = at_the_kink(7)
    assert report_of([AIR] * 4 + kinks[4:], [1.0] * 7).passed
    report = report_of([AIR] * 3 + kinks[3:], [1.0] * 7)
    assert not report.passed
    assert "disagree with each other in 4 envs, more than the 3 that are left" in str(report)


def test_an_env_that_lands_within_the_window_is_in_contact():
    """From 1.4 it falls by 0.25 to 0.75 per step, so it is below 0.8 at one of three at least."""
    report = report_of([AIR + 2, 1.4, FLOOR], [1.0] * 3, horizon=3)
    assert report.reward.contact.tolist() == [False, True, True]
    assert report.horizon == 3


def test_a_warm_up_moves_the_envs_to_the_floor():
    """They fall by half a metre per step, on average."""
    heights = [AIR + 1] * 7
    assert not check_gradients(Bouncer(heights)).reward.contact.any()
    report = check_gradients(Bouncer(heights), warmup=13)
    assert report.warmup == 13
    assert report.reward.contact.all()
    assert "horizon 1 after 13 random steps" in str(report)


class Jointed(Bouncer):
    articulated = True


@pytest.mark.parametrize(
    ("env", "steps"),
    [(Bouncer([AIR]), 0), (Jointed([AIR]), 30), (Jointed([AIR], max_steps=24), 22)],
    ids=["a point", "joints", "joints, 24 steps at most"],
)
def test_envs_of_bodies_with_joints_are_warmed_up_by_themselves(env, steps):
    assert check_gradients(env).warmup == steps


def test_a_negative_warm_up_is_refused():
    with pytest.raises(UsageError, match="warmup is -1"):
        check_gradients(Bouncer([AIR]), warmup=-1)


def test_envs_know_no_contacts_unless_they_say_so():
    plain = CartPoleSwingUp(num_envs=3)
    assert plain.contacts() is None
    wrapper = EnvWrapper.__new__(EnvWrapper)
    wrapper.env = Bouncer([AIR, FLOOR])
    wrapper.env.reset()
    assert isinstance(wrapper, MultiAgentVectorEnv)
    assert wrapper.contacts().tolist() == [False, True]
