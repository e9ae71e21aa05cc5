"""Noise and conflict of gradients by hand, and on networks that share all or nothing."""

import pytest
import torch
from gradient_interference import (
    conflict,
    gradients_of,
    noise_scale,
    pairwise_cosines,
    policy_gradients,
    variance_over_samples,
    variance_over_weights,
)

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.nets.config import NET_CONFIGS

ENVS, AGENTS, OBS, CHOICES = 7, 3, 5, 4


def test_variances_by_hand():
    """Entries 1 and 5 vary by 4. Gradients (1, 5) and (3, 5) have mean (2, 5), covariance 2 and 0,
    and 2 / (4 + 25)."""
    assert variance_over_weights(torch.tensor([1.0, 5.0])).item() == 4
    gradients = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert variance_over_samples(gradients).item() == 2
    assert noise_scale(gradients).item() == pytest.approx(2 / 29)


def test_noise_scale_has_no_unit():
    gradients = torch.randn(5, 11)
    torch.testing.assert_close(noise_scale(1000 * gradients), noise_scale(gradients))


def test_cosines_and_conflict_by_hand():
    """East, north, south-west of length 2 and nothing: 0, -√½, 0 / -√½, 0 / 0; 2 of 6 conflict."""
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-(2**0.5), -(2**0.5)], [0.0, 0.0]])
    half = 0.5**0.5
    assert pairwise_cosines(gradients).tolist() == pytest.approx([0, -half, 0, -half, 0, 0])
    report = conflict(gradients)
    assert report["agent_gradient_cosine"] == pytest.approx(-half / 3)
    assert report["agent_conflict_share"] == pytest.approx(2 / 6)


def test_gradients_of_losses_by_hand():
    """x² and 3y at (2, 5): (4, 0) and (0, 3)."""
    x, y = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    assert gradients_of(torch.stack([x**2, 3 * y]), [x, y]).tolist() == [[4, 0], [0, 3]]


def actor(architecture: str, **net: object) -> Actor:
    torch.manual_seed(0)
    config = NET_CONFIGS[architecture](hidden=(8,), **net)
    box = torch.zeros(AGENTS, CHOICES), torch.ones(AGENTS, CHOICES)
    return Actor(ActorConfig(net=config, head_gain=1.0), AGENTS, OBS, *box, discrete=True)


def acted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    action = torch.eye(CHOICES)[torch.randint(CHOICES, (11, ENVS, AGENTS))]
    return torch.randn(11, ENVS, AGENTS, OBS), action, torch.randn(11, ENVS, AGENTS)


@pytest.mark.parametrize("architecture", ["shared", "separate", "hyper-linear", "hyper-mlp"])
def test_agents_gradients_add_up_to_the_policy_gradient(architecture):
    policy, (obs, action, advantage) = actor(architecture), acted()
    loss = -(policy.log_prob(obs, action) * advantage).mean()
    weights = [p for p in policy.parameters() if p.requires_grad]
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    torch.testing.assert_close(policy_gradients(policy, obs, action, advantage).sum(0), whole)


def test_agents_that_share_no_weight_never_conflict():
    gradients = policy_gradients(actor("separate"), *acted())
    assert gradients.any(-1).all()
    assert pairwise_cosines(gradients).tolist() == [0, 0, 0]


def test_agents_that_want_the_opposite_of_one_network_conflict():
    """Two agents see and do the same, but it was good for one and bad for the other."""
    policy, (obs, action, advantage) = actor("shared", pool_others=False), acted()
    obs[..., 1, :], action[..., 1, :], advantage[..., 1] = (
        obs[..., 0, :],
        action[..., 0, :],
        -advantage[..., 0],
    )
    cosine = pairwise_cosines(policy_gradients(policy, obs, action, advantage))[0]
    assert cosine.item() == pytest.approx(-1, abs=1e-5)
