"""Actions between their bounds, between -1 and 1, and as one-hot rows."""

import pytest
import torch
from torch import Tensor

from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.functional.discrete_actions import straight_through_one_hot

ENVS, AGENTS, ACT = 7, 3, 2
LOW = torch.tensor([[-1.0, 2.0], [0.0, -4.0], [-3.0, 5.0]])
HIGH = torch.tensor([[3.0, 2.5], [10.0, 4.0], [1.0, 5.0]])
"""The last agent has one action feature less: its second is padding, with equal bounds."""
SPACE = ActionSpace(LOW, HIGH)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_bounds_are_at_minus_1_and_1() -> None:
    real = torch.ones(AGENTS, ACT)
    real[2, 1] = 0.0  # padding is always in the middle
    assert torch.equal(SPACE.normalise(LOW), -real)
    assert torch.equal(SPACE.normalise(HIGH), real)
    assert SPACE.normalise(torch.tensor([2.0, 2.375]).expand(AGENTS, ACT))[0].tolist() == [0.5, 0.5]


def test_the_unit_of_a_box_does_not_matter() -> None:
    tiny = ActionSpace(LOW * 2.0**-40, HIGH * 2.0**-40)
    assert torch.equal(tiny.normalise(LOW * 2.0**-40), SPACE.normalise(LOW))


def test_denormalising_inverts_it_and_leaves_padding_at_its_bound() -> None:
    normalised = draw(ENVS, AGENTS, ACT)
    action = SPACE.denormalise(normalised)
    assert (action[:, 2, 1] == 5.0).all()
    expected = normalised.clone()
    expected[:, 2, 1] = 0.0
    torch.testing.assert_close(SPACE.normalise(action), expected)


@pytest.mark.parametrize("agent", range(AGENTS))
def test_one_agents_actions_are_scaled_by_its_own_bounds(agent: int) -> None:
    own = slice(agent, agent + 1)
    action = draw(ENVS, AGENTS, ACT)
    assert torch.equal(SPACE.normalise(action[:, own], own), SPACE.normalise(action)[:, own])
    assert torch.equal(SPACE.denormalise(action[:, own], own), SPACE.denormalise(action)[:, own])


def test_executed_actions_are_clamped_without_a_gradient_outside() -> None:
    outside = 2 * draw(ENVS, AGENTS, ACT)
    action = SPACE.denormalise(outside).requires_grad_()
    executed = SPACE.executed(action)
    torch.testing.assert_close(executed, SPACE.denormalise(outside.clamp(-1, 1)))
    executed.sum().backward()
    inside = (action > LOW) & (action < HIGH)
    assert inside[:, :2].any()
    assert not inside[:, :2].all()
    assert action.grad is not None
    assert torch.equal(action.grad[..., 0], inside[..., 0].float())
    assert torch.equal(action.grad[:, :2, 1], inside[:, :2, 1].float())


def test_padding_is_executed_as_the_middle_of_its_bounds_and_passes_no_gradient() -> None:
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    space = ActionSpace(LOW, HIGH, valid=valid)
    assert torch.equal(space.free, torch.tensor([[1, 1], [1, 0], [1, 0]]).bool())
    assert ActionSpace(LOW, HIGH, valid=torch.ones(AGENTS, ACT).bool()).valid is None
    action = space.denormalise(0.9 * draw(ENVS, AGENTS, ACT).tanh()).requires_grad_()
    executed = space.executed(action)
    assert (executed[:, 1, 1] == 0.0).all()
    assert torch.equal(executed[:, valid], action[:, valid])
    executed.sum().backward()
    assert action.grad is not None
    assert not action.grad[:, ~valid].any()


def test_executed_discrete_actions_are_one_hot_with_the_gradient_of_the_numbers_given() -> None:
    space = ActionSpace(torch.zeros(AGENTS, 4), torch.ones(AGENTS, 4), discrete=True)
    action = draw(ENVS, AGENTS, 4).softmax(-1).requires_grad_()
    executed = space.executed(action)
    assert torch.equal(executed.argmax(-1), action.argmax(-1))
    assert torch.equal(executed, straight_through_one_hot(action, action))
    assert torch.equal(
        executed.detach().sort(-1).values[..., -2:],
        torch.tensor([0.0, 1.0]).expand(ENVS, AGENTS, 2),
    )
    weight = draw(ENVS, AGENTS, 4)
    (executed * weight).sum().backward()
    assert torch.equal(action.grad, weight)


def test_bounds_follow_the_device_but_are_no_part_of_a_checkpoint() -> None:
    assert not SPACE.state_dict()
    assert {name for name, _ in SPACE.named_buffers()} == {"low", "high", "bias", "scale"}
