"""Clipped Adam: what a gradient that is not finite leaves alone."""

import copy

import torch
from torch import nn

from diffsurrogate.optimisation import ClippedAdam


def test_a_gradient_that_is_not_finite_is_as_if_it_had_not_been():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    rows = torch.randn(5, 3)
    optimiser = ClippedAdam(net, 0.1, max_grad_norm=0.5)
    norm = optimiser.step(net(rows).square().sum())
    assert norm > 0.5
    before = copy.deepcopy((net.state_dict(), optimiser.adam.state_dict()["state"]))
    assert optimiser.step((net(rows) * torch.nan).sum()).isnan()
    after = (net.state_dict(), optimiser.adam.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert optimiser.skipped == 1

    plain = nn.Linear(3, 2)
    plain.load_state_dict(net.state_dict())
    again = ClippedAdam(plain, 0.1, max_grad_norm=0.5)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for module, stepped in ((net, optimiser), (plain, again)):
        stepped.step(module(rows).square().sum())
    torch.testing.assert_close(plain.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert again.skipped == 1
