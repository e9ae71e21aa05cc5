"""The objective of BPPO by hand: whose ratio, whose peer gradient, which side is clipped."""

import pytest
import torch

from diffsurrogate.functional.losses import clipped_ratio_loss, later_ratio, peer_clipped_loss

SLOPE = torch.tensor([[1.0, 2.0]])
"""c; with the action (3, -1) its product c·g is 1."""


@pytest.mark.parametrize(
    ("ratio", "advantage", "peer_grad", "loss", "by_log_prob", "by_action"),
    [
        # M = ½. in range: -(ρM + ρ c·g)A, slopes -ρMA and -ρAc
        (1.1, 2.0, 1.0, -3.3, -1.1, -2.2),
        # above: min((.75 + 1.5) 2, (.6 + 1.2) 2) is the clipped one, which still pulls by 1.2
        (1.5, 2.0, 1.0, -3.6, 0.0, -2.4),
        # c·g = -1 turns that round: min((.75 - 1.5) 2, (.6 - 1.2) 2)
        (1.5, 2.0, -1.0, 1.5, -1.5, -3.0),
        # below, bad: min((.25 + .5)(-2), (.4 + .8)(-2))
        (0.5, -2.0, 1.0, 2.4, 0.0, 1.6),
    ],
)
def test_loss_and_slopes_by_hand(ratio, advantage, peer_grad, loss, by_log_prob, by_action):
    log_prob = torch.tensor([-3.0]).requires_grad_()
    old = torch.tensor([-3.0]) - torch.tensor([ratio]).log()
    action = (peer_grad * torch.tensor([[3.0, -1.0]])).requires_grad_()
    half = torch.tensor([0.5])
    got = peer_clipped_loss(
        log_prob, old, torch.tensor([advantage]), half, SLOPE, action, clip_range=0.2
    )
    grads = torch.autograd.grad(got, (log_prob, action))
    assert got.item() == pytest.approx(loss)
    assert grads[0].item() == pytest.approx(by_log_prob)
    torch.testing.assert_close(grads[1], by_action * SLOPE)


def test_without_peer_gradient_it_is_happos_and_without_peers_ppos():
    """M > 0 goes through the minimum: M min(ρA, ρ̄A)."""
    generator = torch.Generator().manual_seed(0)
    new, old, advantage = torch.randn(3, 7, 5, generator=generator)
    peers = torch.rand(7, 5, generator=generator) + 0.5
    nothing = torch.zeros(7, 5, 2)
    action = torch.randn(7, 5, 2, generator=generator)
    got = peer_clipped_loss(new, old, advantage, peers, nothing, action, clip_range=0.2)
    want = clipped_ratio_loss(new, old, advantage * peers, clip_range=0.2)
    torch.testing.assert_close(got, want)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    new, old, advantage, peers = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    slope, action = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)

    def of_action(action):
        return peer_clipped_loss(new, old, advantage, peers.exp(), slope, action, clip_range=0.2)

    assert torch.autograd.gradcheck(of_action, action.requires_grad_())


def test_the_ratio_of_later_agents_follows_the_order():
    """Agents 0, 1, 2 have the ratios 2, 3, 5 and act as 2, 0, 1: after 2 come 2 · 3."""
    log_ratio = torch.tensor([2.0, 3.0, 5.0]).log().expand(7, 3)
    want = torch.tensor([3.0, 1.0, 6.0]).expand(7, 3)
    torch.testing.assert_close(later_ratio(log_ratio, [2, 0, 1]), want)
