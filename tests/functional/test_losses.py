"""The actor's loss and the box penalty, by hand and against a plain loop."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys.by_hand import AGENTS, ENVS, flags, rows

from diffsurrogate.functional.losses import (
    action_penalty,
    lambda_actor_loss,
    shac_actor_loss,
    td_lambda,
)


@pytest.mark.parametrize(
    ("terminated", "truncated", "returns"),
    [
        (flags(), flags(), 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30),
        (flags(1), flags(), (1 + 0.5 * 2) + (4 + 0.5 * 30)),
        (flags(), flags(1), (1 + 0.5 * 2 + 0.25 * 20) + (4 + 0.5 * 30)),
        (flags(1), flags(1), (1 + 0.5 * 2) + (4 + 0.5 * 30)),
        (flags(0), flags(1), 1 + (2 + 0.5 * 20) + (4 + 0.5 * 30)),
        (flags(2), flags(), 1 + 0.5 * 2 + 0.25 * 4),
        (flags(), flags(2), 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30),
    ],
    ids=["none", "terminated", "truncated", "both", "several", "terminated last", "truncated last"],
)
def test_loss_by_hand(terminated, truncated, returns):
    """Rewards 1, 2, 4 and values 10, 20, 30 at γ = 0.5; the discount restarts after an end."""
    loss = shac_actor_loss(
        rows(1.0, 2.0, 4.0), rows(10.0, 20.0, 30.0), terminated, truncated, gamma=0.5
    )
    assert loss.item() == pytest.approx(-returns / 3)  # 3 steps


def random_window(seed: int, horizon: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (horizon, ENVS, AGENTS)
    reward = torch.randn(shape, generator=generator, dtype=torch.float64)
    value = torch.randn(shape, generator=generator, dtype=torch.float64)
    terminated = torch.rand(shape[:2], generator=generator) < 0.2
    truncated = torch.rand(shape[:2], generator=generator) < 0.2
    return reward, value, terminated, truncated


def plain_loss(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float
) -> float:
    horizon, envs, agents = reward.shape
    total = 0.0
    for env in range(envs):
        for agent in range(agents):
            discount = 1.0
            for t in range(horizon):
                total += discount * float(reward[t, env, agent])
                discount *= gamma
                ended = bool(terminated[t, env] or truncated[t, env])
                if (ended or t == horizon - 1) and not terminated[t, env]:
                    total += discount * float(value[t, env, agent])
                if ended:
                    discount = 1.0
    return -total / reward.numel()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 6), gamma=st.floats(0.0, 1.0))
def test_the_loss_is_minus_the_mean_discounted_return(seed, horizon, gamma):
    window = random_window(seed, horizon)
    loss = shac_actor_loss(*window, gamma=gamma)
    assert loss.item() == pytest.approx(plain_loss(*window, gamma), abs=1e-9)


@pytest.mark.parametrize("modelled", [False, True], ids=["no termination model", "one"])
@pytest.mark.parametrize("lam", [None, 0.0, 0.7, 1.0])
def test_gradcheck(lam, modelled):
    reward, value, terminated, truncated = random_window(seed=1)
    objective = shac_actor_loss if lam is None else partial(lambda_actor_loss, lam=lam)

    def loss(reward: Tensor, value: Tensor, continue_prob: Tensor | None = None) -> Tensor:
        window = (reward, value, terminated, truncated)
        return objective(*window, gamma=0.9, continue_prob=continue_prob)

    inputs = [reward, value, (~terminated).double()][: 3 if modelled else 2]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


def test_continuation_weighs_all_that_comes_after():
    """1 + 0.5 c_0 (2 + 0.5 c_1 30): with c = (0.5, 0.2), 1 + 0.25 * 5 = 2.25."""
    continue_prob = torch.tensor([0.5, 0.2])[:, None].expand(-1, ENVS)
    never = flags(horizon=2)
    loss = shac_actor_loss(
        rows(1.0, 2.0), rows(10.0, 30.0), never, never, gamma=0.5, continue_prob=continue_prob
    )
    assert loss.item() == pytest.approx(-2.25 / 2)


@pytest.mark.parametrize(
    ("terminated", "slopes"),
    [
        (flags(horizon=2), [0.5 * (2 + 0.5 * 30), 0.25 * 30]),
        # ended: what would have come after step 0 is V(10), not the next episode
        (flags(0, horizon=2), [0.5 * 10, 0.5 * 30]),
    ],
    ids=["going on", "terminated at step 0"],
)
def test_gradient_flows_to_the_continuation(terminated, slopes):
    continue_prob = (~terminated).float().requires_grad_()
    never = flags(horizon=2)
    loss = shac_actor_loss(
        rows(1.0, 2.0), rows(10.0, 30.0), terminated, never, gamma=0.5, continue_prob=continue_prob
    )
    loss.backward()
    expected = -torch.tensor(slopes)[:, None].expand(-1, ENVS) / (2 * ENVS)
    torch.testing.assert_close(continue_prob.grad, expected)


# --- the mean TD(λ) return ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "loss"),
    [
        # G = (1 + 5, 2 + 10, 4 + 15); each action belongs to one return
        (0.0, -(6 + 12 + 19) / 3),
        # G = (6.75, 11.5, 19), see test_returns; weights 1, .5, .25
        (1.0, -(6.75 + 11.5 + 19) / 3 / 1.75),
    ],
)
def test_lambda_loss_by_hand(lam, loss):
    got = lambda_actor_loss(
        rows(1.0, 2.0, 4.0), rows(10.0, 20.0, 30.0), flags(), flags(), gamma=0.5, lam=lam
    )
    assert got.item() == pytest.approx(loss)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), lam=st.floats(0.0, 1.0), gamma=st.floats(0.0, 1.0))
def test_the_lambda_loss_is_minus_the_mean_target_over_its_weights(seed, lam, gamma):
    window = random_window(seed)
    target = td_lambda(*window, gamma=gamma, lam=lam).mean()
    weight = 1 + sum((gamma * lam) ** k for k in (1, 2, 3, 4))
    got = lambda_actor_loss(*window, gamma=gamma, lam=lam)
    assert got.item() == pytest.approx(-target.item() / weight, abs=1e-9)


# --- the box ---------------------------------------------------------------------------------


LOW = torch.tensor([[-1.0, 0.0]]).expand(AGENTS, 2)
HIGH = torch.tensor([[1.0, 5.0]]).expand(AGENTS, 2)


@pytest.mark.parametrize(
    ("action", "penalty"),
    [
        ([3.0, 2.0], 4.0),  # 2 above
        ([-1.5, 2.0], 0.25),  # 0.5 below
        ([3.0, -1.0], 5.0),  # features are summed: 4 + 1
        ([1.0, 5.0], 0.0),  # the border is inside
        ([0.3, 2.0], 0.0),
    ],
)
def test_box_penalty_by_hand(action, penalty):
    everyone = torch.tensor(action).expand(ENVS, AGENTS, 2)
    assert action_penalty(everyone, LOW, HIGH).item() == pytest.approx(penalty)
    alone = torch.zeros(ENVS, AGENTS, 2)
    alone[4, 2] = torch.tensor(action)
    assert action_penalty(alone, LOW, HIGH).item() == pytest.approx(penalty / (ENVS * AGENTS))


def test_box_penalty_gradcheck():
    generator = torch.Generator().manual_seed(0)
    action = 4 * torch.randn(2, AGENTS, 2, generator=generator, dtype=torch.float64)
    low, high = LOW.double(), HIGH.double()
    assert torch.autograd.gradcheck(lambda a: action_penalty(a, low, high), action.requires_grad_())
