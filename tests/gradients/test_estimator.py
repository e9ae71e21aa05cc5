"""Numbers of the simulator with gradients of a model, and gradients cut to a usual size."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys.spring import (
    AGENTS,
    ENVS,
    HORIZON,
    Spring,
    TrueReward,
    gaussian_policy,
    small,
    spring_step,
    stepped,
)

from diffsurrogate.envs.window import Window
from diffsurrogate.functional.losses import shac_actor_loss
from diffsurrogate.gradients.estimator import clip_adjoint, clip_to_median_norm, straight_through
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

WILD = 2


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    """The value exactly, though the two differ by seventeen orders of magnitude."""
    value = torch.tensor([1e-9, 3.0], requires_grad=True)
    surrogate = torch.tensor([1e8, -7.0], requires_grad=True)
    joined = straight_through(value, surrogate)
    assert torch.equal(joined, value)
    joined.backward(torch.tensor([2.0, 5.0]))
    assert value.grad is None
    assert surrogate.grad is not None
    assert surrogate.grad.tolist() == [2.0, 5.0]


def test_only_what_exceeds_the_limit_is_cut_and_keeps_its_direction() -> None:
    sizes = torch.tensor([1.0, 100.0, 3.0, 0.0, 2.0, 7.0])
    torch.manual_seed(0)
    direction = torch.randn(6, 3, 4)
    gradient = sizes[:, None, None] * direction / direction.flatten(1).norm(dim=1)[:, None, None]
    cut = clip_to_median_norm(gradient, 2.0)  # the median of those that have one is 3
    assert torch.allclose(cut.flatten(1).norm(dim=1), torch.tensor([1.0, 6.0, 3.0, 0.0, 2.0, 6.0]))
    assert torch.allclose(cut[1], 0.06 * gradient[1])
    assert not clip_to_median_norm(torch.zeros(5, 3, 2), 3.0).any()


def test_each_step_has_its_own_limit() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 1e-3, 10.0])[:, None, None, None]
    gradient = scale * torch.randn(3, 7, 2, 5) * torch.randn(7, 1, 1).exp()
    each = torch.stack([clip_to_median_norm(step, 0.5) for step in gradient])
    assert torch.equal(clip_to_median_norm(gradient, 0.5), each)
    assert not torch.allclose(each, gradient)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_the_adjoint_of_a_state_is_clipped_if_there_is_a_limit(limit: float | None) -> None:
    """Norms 1, 2 and 8, whose median is 2."""
    obs = torch.zeros(3, 1, 2, requires_grad=True)
    state = clip_adjoint(1.0 * obs, limit)
    incoming = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 8.0]]).unsqueeze(1)
    state.backward(incoming)
    assert obs.grad is not None
    norms = obs.grad.flatten(1).norm(dim=1).tolist()
    assert norms == [1.0, 2.0, 8.0 if limit is None else 2.0]
    assert clip_adjoint(torch.zeros(3, 1, 2), limit).grad_fn is None


class OneGoesWild(nn.Module):
    """The true dynamics, but for one env, whose Jacobian is a thousand times as large."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        after = spring_step(obs, action)
        gain = torch.ones(ENVS, 1, 1)
        gain[WILD] = 1000.0
        return after.detach() + gain * (after - after.detach())


def first_action_gradients(limit: float | None, *, by_steps: bool) -> tuple[Tensor, Window]:
    """Return the size of each env's gradient with respect to its first action (env,)."""
    config = replace(small(), adjoint_clip=limit)
    env = LearnedDiffWrapper(
        Spring(),
        reward=TrueReward(),
        dynamics=OneGoesWild(),
        config=config,
        continuous=torch.ones(AGENTS, 2, dtype=torch.bool),
    )
    env.reset(seed=1)
    policy = gaussian_policy(env)
    noise = policy.noise.requires_grad_()
    window = stepped(env, policy) if by_steps else env.rollout(policy, HORIZON)
    value = torch.zeros(HORIZON, ENVS, AGENTS)
    rest = (window.reward, value, window.terminated, window.truncated)
    (gradient,) = torch.autograd.grad(shac_actor_loss(*rest, gamma=0.9), noise)
    return gradient[0].flatten(1).norm(dim=1), window


@pytest.mark.parametrize("by_steps", [False, True])
def test_only_the_exceeding_env_is_clipped(by_steps: bool) -> None:
    free, free_window = first_action_gradients(None, by_steps=by_steps)
    held, held_window = first_action_gradients(20.0, by_steps=by_steps)
    others = torch.arange(ENVS) != WILD
    assert free[WILD] > 1e6 * free[others].max()
    # its last adjoint is 20 medians at most, and one more Jacobian of a thousand follows it
    assert held[WILD] < 1e5 * held[others].max()
    assert torch.equal(held[others], free[others])
    assert torch.equal(held_window.reward, free_window.reward)
