"""TD(λ): the recursion meets its limits and the mixture it stands for."""

import pytest
import torch
from torch import Tensor
from toys.by_hand import AGENTS, ENVS, rows

from diffsurrogate.functional.losses import td_lambda

NEVER = torch.zeros(3, ENVS, dtype=torch.bool)


def only(step: int) -> Tensor:
    """True at one step of env 0."""
    flags = NEVER.clone()
    flags[step, 0] = True
    return flags


REWARD, NEXT_VALUE = rows(1.0, 2.0, 4.0), rows(10.0, 20.0, 30.0)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        # one step: r + 0.5 V
        (0.0, [1 + 5, 2 + 10, 4 + 15]),
        # the discounted sum, with V at the end of the window only
        (1.0, [1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30, 2 + 0.5 * 4 + 0.25 * 30, 4 + 0.5 * 30]),
        # half of each: G_2 = 19, G_1 = 2 + 0.5 (10 + 9.5), G_0 = 1 + 0.5 (5 + 5.875)
        (0.5, [6.4375, 11.75, 19]),
    ],
)
def test_targets_by_hand(lam, expected):
    got = td_lambda(REWARD, NEXT_VALUE, NEVER, NEVER, gamma=0.5, lam=lam)
    torch.testing.assert_close(got, rows(*map(float, expected)))


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (NEVER, only(1), [1 + 0.5 * (2 + 0.5 * 20), 2 + 0.5 * 20, 19]),
        (only(1), NEVER, [1 + 0.5 * 2, 2, 19]),
        (only(1), only(1), [1 + 0.5 * 2, 2, 19]),
        (only(2), NEVER, [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4]),
    ],
    ids=["truncated: V(final)", "terminated: nothing", "both: terminated", "terminated at the end"],
)
def test_an_end_cuts_the_sum_and_only_a_termination_drops_the_value(
    terminated, truncated, expected
):
    got = td_lambda(REWARD, NEXT_VALUE, terminated, truncated, gamma=0.5, lam=1.0)
    torch.testing.assert_close(got[:, 0], rows(*map(float, expected))[:, 0])
    whole = td_lambda(REWARD, NEXT_VALUE, NEVER, NEVER, gamma=0.5, lam=1.0)
    assert torch.equal(got[:, 1:], whole[:, 1:])  # the other envs do not notice


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_targets_are_the_mixture_of_n_step_returns(lam):
    """(1-λ) Σ λ^(n-1) G^(n) up to the last n before the cut, which gets all that is left."""
    generator = torch.Generator().manual_seed(0)
    horizon, gamma = 11, 0.9
    reward = torch.randn(horizon, ENVS, AGENTS, generator=generator)
    value = torch.randn(horizon, ENVS, AGENTS, generator=generator)
    terminated = torch.rand(horizon, ENVS, generator=generator) < 0.15
    truncated = torch.rand(horizon, ENVS, generator=generator) < 0.15
    assert (terminated & truncated).any()
    got = td_lambda(reward, value, terminated, truncated, gamma=gamma, lam=lam)
    for env in range(ENVS):
        for t in range(horizon):
            last = t
            while last + 1 < horizon and not (terminated | truncated)[last, env]:
                last += 1
            expected, total = torch.zeros(AGENTS), torch.zeros(AGENTS)
            for n in range(1, last - t + 2):
                end = t + n - 1
                total = total + gamma ** (n - 1) * reward[end, env]
                alive = float(not terminated[end, env])
                n_step = total + gamma**n * alive * value[end, env]
                weight = lam ** (n - 1) * (1.0 if end == last else 1 - lam)
                expected = expected + weight * n_step
            torch.testing.assert_close(got[t, env], expected, atol=1e-5, rtol=1e-5)
