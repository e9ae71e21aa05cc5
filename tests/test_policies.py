"""Policies and critics: boxes, noise, and which gradient reaches what."""

import pytest
import torch
from torch import Tensor

from diffsurrogate.critics import Critic, CriticConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.losses import box_penalty
from diffsurrogate.nets import NetConfig
from diffsurrogate.policies import Actor, ActorConfig, NoisyPolicy

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 11
LOW = torch.tensor([-1.0, 2.0]).expand(AGENTS, ACT)
HIGH = torch.tensor([3.0, 2.5]).expand(AGENTS, ACT)  # middles 1 and 2.25, halves 2 and 0.25
NET = NetConfig(hidden=(8,))


def actor(head_gain: float = 1.0, **kwargs: object) -> Actor:
    torch.manual_seed(0)
    config = ActorConfig(net=NET, head_gain=head_gain, **kwargs)
    return Actor(config, AGENTS, OBS, LOW, HIGH)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_new_actor_is_in_the_middle_of_the_box():
    action = actor(head_gain=0.0).act(draw(ENVS, AGENTS, OBS), None)
    torch.testing.assert_close(action, torch.tensor([1.0, 2.25]).expand(ENVS, AGENTS, ACT))


def test_noise_is_in_half_boxes():
    noise = torch.ones(ENVS, AGENTS, ACT)
    action = actor(head_gain=0.0, std=0.5).act(draw(ENVS, AGENTS, OBS), noise)
    expected = torch.tensor([1 + 2 * 0.5, 2.25 + 0.25 * 0.5])
    torch.testing.assert_close(action, expected.expand_as(action))


def test_without_squashing_a_sample_may_leave_the_box():
    action = actor().act(draw(ENVS, AGENTS, OBS), 3 * draw(ENVS, AGENTS, ACT))
    assert ((action < LOW) | (action > HIGH)).any()


def test_squashed_samples_stay_inside():
    action = actor(squash=True).act(draw(ENVS, AGENTS, OBS), 30 * draw(ENVS, AGENTS, ACT))
    assert ((action >= LOW) & (action <= HIGH)).all()


@pytest.mark.parametrize("squash", [False, True])
def test_no_noise_is_the_mean_and_zero_noise_the_same(squash):
    policy, obs = actor(squash=squash), draw(ENVS, AGENTS, OBS)
    zero = torch.zeros(ENVS, AGENTS, ACT)
    assert torch.equal(policy.act(obs, None), policy.act(obs, zero))
    silent = actor(squash=squash, std=0.0)
    assert torch.equal(silent.act(obs, zero + 5), policy.act(obs, None))


def test_outside_measures_any_box_from_minus_1_to_1():
    action = torch.tensor([[-1.0, 2.0], [3.0, 2.5], [5.0, 2.25]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [2.0, 0.0]])
    torch.testing.assert_close(actor().in_half_boxes(action), expected)
    one = torch.ones(AGENTS, ACT)
    assert box_penalty(actor().in_half_boxes(action), -one, one).item() == pytest.approx(1 / AGENTS)


@pytest.mark.parametrize("learn_std", [False, True])
def test_the_deviation_learns_only_if_asked(learn_std):
    policy = actor(learn_std=learn_std, std=0.5)
    noise = draw(ENVS, AGENTS, ACT)
    policy.act(draw(ENVS, AGENTS, OBS), noise).sum().backward()
    names = {name for name, _ in policy.named_parameters()}
    assert ("log_std" in names) == learn_std
    if learn_std:  # d action / d log σ = half box * σ * noise
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
    config = ActorConfig(net=NetConfig(architecture=architecture, hidden=(8,)), squash=squash)
    noise = draw(HORIZON, ENVS, AGENTS, ACT)
    policy = NoisyPolicy(Actor(config, AGENTS, OBS, LOW, HIGH), noise)
    obs = draw(HORIZON, ENVS, AGENTS, OBS, seed=2)
    stepped = torch.stack([policy(row) for row in obs])
    assert policy.step == HORIZON
    again = torch.stack([policy.at(row, step) for step, row in enumerate(obs)])
    assert torch.equal(again, stepped)
    torch.testing.assert_close(policy.at(obs, slice(None)), stepped, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(policy.at(obs[3:5], slice(3, 5)), stepped[3:5], atol=1e-6, rtol=1e-6)


def test_a_negative_deviation_is_refused():
    with pytest.raises(UsageError, match="std is -1"):
        ActorConfig(std=-1.0)


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


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_target_that_cannot_move_is_refused(decay):
    with pytest.raises(UsageError, match="target_decay"):
        CriticConfig(target_decay=decay)
