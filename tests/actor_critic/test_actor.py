"""Policies and critics: boxes, noise, and which gradient reaches what."""

import math

import pytest
import torch
from toys.by_hand import draw

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import Critic, CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseState
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import action_penalty
from diffsurrogate.nets.config import (
    NET_CONFIGS,
    DiCoConfig,
    JointNetConfig,
    SeparateNetConfig,
)

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 11
LOW = torch.tensor([-1.0, 2.0]).expand(AGENTS, ACT)
HIGH = torch.tensor([3.0, 2.5]).expand(AGENTS, ACT)  # middles 1 and 2.25, halves 2 and 0.25
NET = JointNetConfig(hidden=(8,))


def actor(head_gain: float = 1.0, **kwargs: object) -> Actor:
    torch.manual_seed(0)
    config = ActorConfig(net=NET, head_gain=head_gain, **kwargs)
    return Actor(config, AGENTS, OBS, LOW, HIGH)


def test_a_new_actor_is_in_the_middle_of_the_box():
    action = actor(head_gain=0.0).act(draw(ENVS, AGENTS, OBS), None)
    torch.testing.assert_close(action, torch.tensor([1.0, 2.25]).expand(ENVS, AGENTS, ACT))


def test_noise_is_in_half_boxes():
    noise = torch.ones(ENVS, AGENTS, ACT)
    action = actor(head_gain=0.0, std=0.5).act(draw(ENVS, AGENTS, OBS), noise)
    expected = torch.tensor([1 + 2 * 0.5, 2.25 + 0.25 * 0.5])
    torch.testing.assert_close(action, expected.expand_as(action))


def test_only_squashed_samples_stay_inside_the_box():
    for squash in (False, True):
        action = actor(squash=squash).act(draw(ENVS, AGENTS, OBS), 30 * draw(ENVS, AGENTS, ACT))
        assert ((action >= LOW) & (action <= HIGH)).all() == squash


@pytest.mark.parametrize("squash", [False, True])
def test_no_noise_is_the_mean_and_zero_noise_the_same(squash):
    policy, obs = actor(squash=squash), draw(ENVS, AGENTS, OBS)
    zero = torch.zeros(ENVS, AGENTS, ACT)
    assert torch.equal(policy.act(obs, None), policy.act(obs, zero))
    silent = actor(squash=squash, std=0.0)
    assert torch.equal(silent.act(obs, zero + 5), policy.act(obs, None))


def test_actions_are_normalised_to_their_bounds_and_penalised_outside():
    action = torch.tensor([[-1.0, 2.0], [3.0, 2.5], [5.0, 2.25]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [2.0, 0.0]])
    torch.testing.assert_close(actor().normalise_action(action), expected)
    one = torch.ones(AGENTS, ACT)
    assert action_penalty(actor().normalise_action(action), -one, one).item() == pytest.approx(
        1 / AGENTS
    )


@pytest.mark.parametrize("learn_std", [False, True])
def test_the_deviation_learns_only_if_asked(learn_std):
    policy = actor(learn_std=learn_std, std=0.5)
    noise = draw(ENVS, AGENTS, ACT)
    policy.act(draw(ENVS, AGENTS, OBS), noise).sum().backward()
    names = {name for name, _ in policy.named_parameters()}
    assert ("log_std" in names) == learn_std
    if learn_std:  # d action / d log σ = scale * σ * noise
        expected = torch.tensor([2.0, 0.25]) * 0.5 * noise.sum((0, 1))
        torch.testing.assert_close(policy.log_std.grad, expected)


@pytest.mark.parametrize("normalise_obs", [False, True])
def test_observations_are_normalised_if_asked(normalise_obs):
    policy, obs = actor(normalise_obs=normalise_obs), draw(ENVS, AGENTS, OBS)
    before = policy(obs)
    policy.statistics.update(100 * obs)
    assert torch.equal(policy(obs), before)  # not before the snapshot
    policy.statistics.snapshot()
    assert torch.equal(policy(obs), before) != normalise_obs


@pytest.mark.parametrize("architecture", ["joint", "shared", "transformer"])
@pytest.mark.parametrize("squash", [False, True])
def test_a_slice_of_a_window_equals_step_by_step(architecture, squash):
    torch.manual_seed(0)
    config = ActorConfig(net=NET_CONFIGS[architecture](hidden=(8,)), squash=squash)
    noise = draw(HORIZON, ENVS, AGENTS, ACT)
    policy = NoisyPolicy(Actor(config, AGENTS, OBS, LOW, HIGH), noise)
    obs = draw(HORIZON, ENVS, AGENTS, OBS, seed=2)
    stepped = torch.stack([policy(row) for row in obs])
    assert policy.step == HORIZON
    again = torch.stack([policy.at(row, step) for step, row in enumerate(obs)])
    assert torch.equal(again, stepped)
    torch.testing.assert_close(policy.at(obs, slice(None)), stepped, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(policy.at(obs[3:5], slice(3, 5)), stepped[3:5], atol=1e-6, rtol=1e-6)


# --- densities -------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_std", [False, True])
def test_log_prob_and_entropy_are_the_normal_distributions(learn_std):
    """Of normalised actions; density in the env's units differs by the log of the scale."""
    policy, obs = actor(std=0.7, learn_std=learn_std), draw(ENVS, AGENTS, OBS)
    action = policy.act(obs, 3 * draw(ENVS, AGENTS, ACT))  # many outside the box
    normal = torch.distributions.Normal(policy(obs), 0.7)
    expected = normal.log_prob((action - torch.tensor([1.0, 2.25])) / torch.tensor([2.0, 0.25]))
    torch.testing.assert_close(policy.log_prob(obs, action), expected.sum(-1))
    torch.testing.assert_close(policy.entropy(obs), normal.entropy().sum(-1))
    in_units = torch.distributions.Normal(
        policy.act(obs, None), 0.7 * torch.tensor([2.0, 0.25])
    ).log_prob(action)
    halves = torch.tensor([2.0, 0.25]).log().sum()
    torch.testing.assert_close(policy.log_prob(obs, action), in_units.sum(-1) + halves)


def test_known_noise_moves_the_mean_and_narrows_the_deviation():
    """At σ = 0.5, noise known to be 2 ± 0.1: a normal of mean μ + 1 and deviation 0.05."""
    policy, obs = actor(std=0.5), draw(ENVS, AGENTS, OBS)
    carried = torch.full((ENVS, AGENTS, ACT), 2.0)
    memory = NoiseState(carried=carried, fresh=torch.full((ENVS, 1, 1), 0.1))
    action = policy.act(obs, carried + 0.1 * draw(ENVS, AGENTS, ACT))
    normal = torch.distributions.Normal(policy(obs) + 1, 0.05)
    expected = normal.log_prob(policy.normalise_action(action)).sum(-1)
    got = policy.log_prob(obs, action, memory)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_a_feature_that_cannot_move_has_no_density():
    """A box that is a point: noise never moves the action, so it says nothing of the policy."""
    low, high = LOW.clone(), HIGH.clone()
    low[1, 0] = high[1, 0] = 4.0
    torch.manual_seed(0)
    policy = Actor(ActorConfig(net=NET, head_gain=1.0, std=0.5), AGENTS, OBS, low, high)
    obs, noise = draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, ACT)
    action = policy.act(obs, noise)
    assert (action[:, 1, 0] == 4.0).all()
    one = torch.distributions.Normal(0.0, 1.0).log_prob(noise) - torch.tensor(0.5).log()
    expected = one.sum(-1)
    expected[:, 1] = one[:, 1, 1]
    torch.testing.assert_close(policy.log_prob(obs, action), expected)
    assert (policy.entropy(obs)[:, 0] == 2 * policy.entropy(obs)[:, 1]).all()


def choosing(logits: list[float]) -> Actor:
    """A policy over choices with the same logits whatever it sees."""
    box = torch.zeros(AGENTS, len(logits)), torch.ones(AGENTS, len(logits))
    policy = Actor(ActorConfig(net=NET, head_gain=0.0), AGENTS, OBS, *box, discrete=True)
    with torch.no_grad():
        policy.net.head.bias.copy_(torch.tensor(logits).repeat(AGENTS))
    return policy


def test_log_prob_and_entropy_are_the_categorical_distributions():
    policy = choosing([0.3, -1.0, 2.0, 0.0])
    obs, noise = draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, 4)
    action = policy.act(obs, noise)
    categorical = torch.distributions.Categorical(logits=policy(obs))
    torch.testing.assert_close(
        policy.log_prob(obs, action), categorical.log_prob(action.argmax(-1))
    )
    torch.testing.assert_close(policy.entropy(obs), categorical.entropy())


def test_discrete_actions_are_one_hot_and_the_likeliest_without_noise():
    policy, obs = choosing([0.3, -1.0, 2.0, 0.0]), draw(ENVS, AGENTS, OBS)
    assert policy.act(obs, None).tolist() == [[[0.0, 0.0, 1.0, 0.0]] * AGENTS] * ENVS
    sample = policy.act(obs, draw(ENVS, AGENTS, 4))
    assert ((sample == 0) | (sample == 1)).all()
    assert (sample.sum(-1) == 1).all()


def test_discrete_actions_are_sampled_by_the_softmax():
    """Of 100 003 * 3 samples; four standard errors of a share p are 4 √(p (1 - p) / n)."""
    policy, count = choosing([1.0, -1.0, 3.0, -6.0]), 100_003
    share = policy.act(torch.zeros(count, AGENTS, OBS), draw(count, AGENTS, 4)).mean((0, 1))
    p = torch.tensor([1.0, -1.0, 3.0, -6.0]).softmax(0)  # .1167, .0158, .8624, .0001
    assert ((share - p).abs() < 4 * (p * (1 - p) / (count * AGENTS)).sqrt()).all()


# --- critic ------------------------------------------------------------------------------------


def moved_critic(decay: float) -> Critic:
    critic = Critic(CriticConfig(net=NET, target_decay=decay), AGENTS, OBS)
    with torch.no_grad():
        for parameter in critic.net.parameters():
            parameter.add_(1.0)
    return critic


def test_a_new_critic_answers_0_per_agent():
    critic = Critic(CriticConfig(net=NET), AGENTS, OBS)
    value = critic(draw(HORIZON, ENVS, AGENTS, OBS))
    assert value.shape == (HORIZON, ENVS, AGENTS)
    assert not value.any()


def test_or_as_its_last_layer_says():
    """A row of an orthogonal matrix is of length 1."""
    for architecture in ("shared", "hyper-linear", "hyper-mlp"):
        net = NET_CONFIGS[architecture](hidden=(8,))
        critic = Critic(CriticConfig(net=net, head_gain=1.5), AGENTS, OBS)
        assert critic(draw(HORIZON, ENVS, AGENTS, OBS)).abs().min() > 0
        if architecture == "shared":
            head = [p for p in critic.net.parameters() if p.dim() == 2][-1]
            assert float(head.detach().norm()) == pytest.approx(1.5)


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.9])
def test_the_target_keeps_a_share_of_decay(decay):
    critic = moved_critic(decay)
    pairs = list(zip(critic.target_net.parameters(), critic.net.parameters(), strict=True))
    expected = [decay * slow + (1 - decay) * fast for slow, fast in pairs]
    critic.update_target()
    for new, wanted in zip(critic.target_net.parameters(), expected, strict=True):
        torch.testing.assert_close(new, wanted.detach())


def test_the_target_moves_only_when_told():
    critic, obs = moved_critic(0.2), draw(ENVS, AGENTS, OBS)
    assert not critic.target(obs).any()
    assert critic(obs).any()


def test_the_target_passes_gradient_to_the_state_but_not_to_its_weights():
    critic = moved_critic(0.2)
    critic.update_target()
    obs = draw(ENVS, AGENTS, OBS).requires_grad_()
    critic.target(obs).sum().backward()
    assert obs.grad.any()
    assert all(p.grad is None for p in critic.parameters())
    assert not any(p.requires_grad for p in critic.target_net.parameters())


@pytest.mark.parametrize("std", [0.05, 0.6, 4.0])
def test_the_entropy_of_a_squashed_policy_is_that_of_its_actions(std):
    policy, obs = actor(squash=True, std=std), 3 * draw(1, AGENTS, OBS)
    mean = policy(obs)[0]
    u = mean + std * torch.randn(400_000, AGENTS, ACT, generator=torch.Generator().manual_seed(1))
    density = torch.distributions.Normal(mean, std).log_prob(u)
    log_slope = (1 / torch.cosh(u.double()).square()).log()
    expected = -(density - log_slope).sum(-1).mean(0).float()
    torch.testing.assert_close(
        policy.entropy(obs)[0], expected, atol=0.02 * ACT * max(std, 1), rtol=0
    )


def test_deviations_that_depend_on_the_state_are_around_the_configured_one_and_learn():
    policy, obs = actor(state_dependent_std=True, std=0.3, head_gain=0.1), draw(ENVS, AGENTS, OBS)
    mean, log_std = policy.gaussian(obs)
    assert torch.equal(mean, policy(obs)) and mean.shape == log_std.shape == (ENVS, AGENTS, ACT)
    assert (log_std - math.log(0.3)).abs().max() < 0.5 and log_std.std(0).min() > 0
    noise = draw(ENVS, AGENTS, ACT)
    action = policy.act(obs, noise)
    expected = policy.action_space.denormalise(mean + log_std.exp() * noise)
    torch.testing.assert_close(action, expected)
    normal = torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(
        policy.log_prob(obs, action),
        normal.log_prob(policy.normalise_action(action)).sum(-1),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(policy.entropy(obs), normal.entropy().sum(-1))
    policy.entropy(obs).sum().backward()
    assert policy.net.head.weight.grad.abs().sum() > 0
    far = actor(state_dependent_std=True, head_gain=1e3).gaussian(obs)[1]
    assert (far.min(), far.max()) == (-5, 2)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"learn_std": True}, "one of them False"),
        ({"net": DiCoConfig()}, "dico"),
        ({"net": SeparateNetConfig(), "order": "listed"}, "listed"),
    ],
)
def test_deviations_that_depend_on_the_state_refuse_what_they_cannot_follow(other, reason):
    with pytest.raises(UsageError, match=reason):
        ActorConfig(state_dependent_std=True, **other)


def test_padded_features_have_neither_density_nor_entropy():
    acts = torch.tensor([[True, False], [True, True], [True, True]])
    policy = Actor(ActorConfig(net=NET, std=0.5), AGENTS, OBS, LOW, HIGH, valid=acts)
    obs, count = draw(ENVS, AGENTS, OBS), torch.tensor([1.0, 2.0, 2.0]).expand(ENVS, AGENTS)
    at_mean = -math.log(0.5) - 0.5 * math.log(2 * math.pi)  # of one feature
    action = policy.act(obs, None)
    action[:, 0, 1] += 0.7  # says nothing
    torch.testing.assert_close(policy.log_prob(obs, action), at_mean * count)
    torch.testing.assert_close(policy.entropy(obs), (0.5 - at_mean) * count)
