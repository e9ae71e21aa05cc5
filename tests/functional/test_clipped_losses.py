"""PPO's clipped objective by hand: whose ratio, whose advantage, which side is clipped."""

import pytest
import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, PolicyBatch, clipped_epochs
from diffsurrogate.functional.losses import clipped_ratio_loss, later_ratio, peer_clipped_loss
from diffsurrogate.nets.config import JointNetConfig
from diffsurrogate.optimisation import ClippedAdam, Gradient

AGENTS, OBS, ACT = 2, 5, 3
BOX = torch.ones(AGENTS, ACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # in range: d(-ρA)/d log π = -ρA
        (1.1, -2.0, 2.2, 2.2),
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: 1.2 * 2, and no reason to go on
        (1.5, -2.0, 3.0, 3.0),  # bad but likelier: must go back
        (0.5, 2.0, -1.0, -1.0),  # good but less likely: must come back
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely: 0.8 * 2
    ],
)
def test_loss_and_slope_by_hand(ratio, advantage, loss, slope):
    log_prob = torch.tensor([-3.0]).requires_grad_()
    old = torch.tensor([-3.0]) - torch.tensor([ratio]).log()
    got = clipped_ratio_loss(log_prob, old, torch.tensor([advantage]), clip_range=0.2)
    (grad,) = torch.autograd.grad(got, log_prob)
    assert got.item() == pytest.approx(loss)
    assert grad.item() == pytest.approx(slope)


def test_the_loss_is_a_mean_over_everything():
    advantage = torch.zeros(7, 3)
    advantage[4, 1] = 21.0
    zero = torch.zeros(7, 3)
    assert clipped_ratio_loss(zero, zero, advantage, clip_range=0.2).item() == pytest.approx(-1.0)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    new, old, advantage = torch.randn(3, 7, 3, generator=generator, dtype=torch.float64)
    new.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda log_prob: clipped_ratio_loss(log_prob, old, advantage, clip_range=0.2), new
    )


# --- with a peer gradient, of BPPO ---------------------------------------------------------------


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
def test_loss_and_slopes_with_peers_by_hand(
    ratio, advantage, peer_grad, loss, by_log_prob, by_action
):
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


def test_gradcheck_of_peers():
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


# --- ratio and advantage --------------------------------------------------------------------------


def actor(**kwargs: object) -> Actor:
    torch.manual_seed(0)
    config = ActorConfig(net=JointNetConfig(hidden=(8,)), head_gain=1.0, std=0.5, **kwargs)
    return Actor(config, AGENTS, OBS, -BOX, BOX)


def past(policy: Actor, ratio: Tensor, advantage: Tensor) -> PolicyBatch:
    """One step of as many envs as rows, at which the policy now has these ratios."""
    envs = len(ratio)
    obs, action = torch.randn(1, envs, AGENTS, OBS), torch.randn(1, envs, AGENTS, ACT)
    log_prob = policy.log_prob(obs, action).detach() - ratio.log()
    return PolicyBatch(obs=obs, action=action, log_prob=log_prob, advantage=advantage.unsqueeze(0))


def first_loss(config: ClipConfig, ratio: Tensor, advantage: Tensor) -> float:
    policy = actor()
    report = clipped_epochs(
        policy,
        past(policy, ratio, advantage),
        config=config,
        generator=torch.Generator(),
        optimiser=ClippedAdam(policy, 0.0, max_grad_norm=1.0),
    )
    return report["clipped_loss"]


TWO = torch.tensor([[1.5, 0.9]]), torch.tensor([[1.0, 3.0]])  # ratios, advantages of two agents


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        ("per_agent", "individual", -(1.2 * 1 + 0.9 * 3) / 2),
        ("per_agent", "shared", -(1.2 * 2 + 0.9 * 2) / 2),
        ("joint", "shared", -1.2 * 2),  # 1.5 * 0.9 = 1.35
        ("joint", "individual", -1.2 * 2),  # one ratio has one gain
    ],
)
def test_ratio_and_advantage_by_hand(ratio, advantage, loss):
    config = ClipConfig(epochs=1, ratio=ratio, advantage=advantage, normalise=False)
    assert first_loss(config, *TWO) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("ratio", "gains"), [("per_agent", [1.0, 3, 5, 9]), ("joint", [2.0, 7])])
def test_normalised_advantages_have_mean_0_and_deviation_1(ratio, gains):
    """Ratios below 1 - ε in both agents of env 0: where its gain is negative, it is clipped."""
    ratios = torch.tensor([[0.5, 0.5], [1.0, 1.0]])
    advantage = torch.tensor([[1.0, 3.0], [5.0, 9.0]])
    gain = torch.tensor(gains)
    gain = (gain - gain.mean()) / gain.std()
    half = len(gains) // 2
    assert (gain[:half] < 0).all()
    expected = -(0.8 * gain[:half].sum() + gain[half:].sum()) / len(gains)
    config = ClipConfig(epochs=1, ratio=ratio)
    assert first_loss(config, ratios, advantage) == pytest.approx(expected.item(), rel=1e-5)


def test_a_minibatch_of_one_state_is_not_normalised():
    config = ClipConfig(epochs=1, batch_size=1, ratio="joint")
    assert first_loss(config, *TWO) == pytest.approx(-2.4, rel=1e-5)


def test_the_report_is_of_all_steps_and_nothing_moved_says_so():
    policy = actor()
    zero = torch.ones(7, AGENTS), torch.randn(7, AGENTS)
    config = ClipConfig(epochs=3, batch_size=3)
    losses: list[float] = []

    class Counted(ClippedAdam):
        def step(self, loss: Tensor, extra_grad: Gradient | None = None, **_: object) -> Tensor:
            losses.append(loss.item())
            return torch.tensor(float(len(losses)))

    report = clipped_epochs(
        policy,
        past(policy, *zero),
        config=config,
        generator=torch.Generator(),
        optimiser=Counted(policy, 0.0, max_grad_norm=1.0),
    )
    assert len(losses) == 9  # 3 epochs of 3, 3 and 1 states
    assert report["clipped_gradient_norm"] == pytest.approx(5.0)
    assert report["clipped_loss"] == pytest.approx(sum(losses) / 9)
    assert abs(report["kl"]) < 1e-6
    assert report["clipped_share"] == 0.0
