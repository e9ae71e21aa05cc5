"""What SHAC's policy descends: returns, the action penalty, PPO's clipped steps beside them."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.reach import ACT, AGENTS, ENVS, HORIZON, OBS, Reach, config, learned_reach, same
from toys.tag import Tag

from diffsurrogate.actor_critic.actor import ActorConfig, NoisyPolicy
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import expectile_loss
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    JointNetConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


def pathwise(**kwargs: Any) -> GradientUpdateConfig:
    return GradientUpdateConfig(gradient=PathwiseConfig(**kwargs))


@pytest.mark.parametrize(
    ("ends", "value_obs", "action_penalty_weight", "action_penalty_on", "loss"),
    [
        (False, None, 0.0, "means", -(1 + 0.5 * 1 + 0.25 * 6) / 2),
        (True, None, 0.0, "means", -(1 + 0.5 * 1) / 2),
        (False, 2.0, 0.0, "means", -(1 + 0.5 * 1 + 0.25 * 2) / 2),
        (False, None, 0.1, "means", -(1 + 0.5 * 1 + 0.25 * 6) / 2 + 0.1 * 2 * 1.5**2),
        (False, None, 0.1, "samples", -(1 + 0.5 * 1 + 0.25 * 6) / 2 + 0.1 * 2 * 2**2),
    ],
    ids=[
        "V(next)",
        "terminated",
        "V where the window says",
        "2 means 1.5 outside",
        "2 samples 2 outside",
    ],
)
def test_actor_loss_by_hand(ends, value_obs, action_penalty_weight, action_penalty_on, loss):
    """Two steps of reward 1 at γ = 0.5, where the value of an observation of 6s is 6.

    In a box of [-1, 1] the mean action is 2.5 and the sample, with its noise, is 3.
    """
    agent = SHAC(
        Reach(),
        config(
            gamma=0.5,
            update=pathwise(
                action_penalty_weight=action_penalty_weight, action_penalty_on=action_penalty_on
            ),
        ),
    )
    with torch.no_grad():
        agent.actor.net.head.weight.zero_()
        agent.actor.net.head.bias.fill_(2.5)
    agent.critic.target_after = lambda obs, next_obs, past: next_obs[..., 0]
    six = torch.full((2, ENVS, AGENTS, OBS), 6.0)
    terminated = torch.zeros(2, ENVS, dtype=torch.bool)
    terminated[1] = ends
    window = Window(
        obs=0 * six,
        action=torch.full((2, ENVS, AGENTS, ACT), 3.0),
        reward=torch.ones(2, ENVS, AGENTS),
        next_obs=six,
        terminated=terminated,
        truncated=torch.zeros_like(terminated),
        value_obs=None if value_obs is None else torch.full_like(six, value_obs),
    )
    assert agent.policy_update.gradient.loss(window).item() == pytest.approx(loss)


def test_without_a_bootstrap_only_rewards_count():
    agent = SHAC(Reach(), config(gamma=0.5, update=pathwise(bootstrap=False)))
    agent.critic.target_after = lambda obs, next_obs, past: next_obs[..., 0]
    six = torch.full((2, ENVS, AGENTS, OBS), 6.0)
    never = torch.zeros(2, ENVS, dtype=torch.bool)
    window = Window(
        obs=six,
        action=torch.zeros(2, ENVS, AGENTS, ACT),
        reward=torch.ones(2, ENVS, AGENTS),
        next_obs=six,
        terminated=never,
        truncated=never,
    )
    found = agent.policy_update.gradient.return_loss(window)
    assert found.item() == pytest.approx(-(1 + 0.5) / 2)


def test_noise_does_not_bias_a_mean_inside_the_box():
    """Half the samples of a policy of deviation 3 are outside; its mean is not."""
    agent = SHAC(
        Reach(),
        config(
            actor=ActorConfig(std=3.0),
            update=pathwise(action_penalty_weight=1e3, action_penalty_on="means"),
        ),
    )
    agent.policy_update.gradient.return_loss = lambda window: window.action.sum() * 0.0
    agent.learn(5 * 28)
    assert agent.actor(torch.randn(ENVS, AGENTS, OBS)).abs().max() < 1
    weights_before = [p.clone() for p in agent.actor.parameters()]
    agent.learn(10 * 28)
    assert same(weights_before, list(agent.actor.parameters()))


def test_padding_is_not_penalised():
    env = Reach()
    env.valid_action_dims[:, 1] = False
    losses = []
    for weight in (0.0, 0.1):
        agent = SHAC(env, config(update=pathwise(action_penalty_weight=weight)))
        env.reset(seed=0)
        window = env.collect(agent.predict, HORIZON)
        window = replace(window, action=torch.full_like(window.action, 3.0))  # 2 outside
        losses.append(agent.policy_update.gradient.loss(window).item())
    assert losses[1] - losses[0] == pytest.approx(0.1 * 2**2, rel=1e-5)


@pytest.mark.parametrize("action_penalty_on", ["samples", "means"])
def test_the_penalty_moves_a_mean_back_into_the_box(action_penalty_on):
    update = replace(pathwise(action_penalty_on=action_penalty_on), lr=0.05)
    agent = SHAC(Reach(), config(update=update))
    agent.policy_update.gradient.return_loss = lambda window: window.action.sum() * 0.0
    with torch.no_grad():
        agent.actor.net.head.bias.fill_(3.0)
    agent.learn(60 * 28)
    assert agent.actor(torch.zeros(ENVS, AGENTS, OBS)).abs().max() < 1.1


def test_a_window_can_move_the_policy_several_times():
    """Three minibatches are three steps, in one iteration on one window as ever."""
    agent = SHAC(learned_reach(), config(update=pathwise(minibatches=3, segment_length=2)))
    taken = []
    adam = agent.policy_update.optimiser.adam
    adam.register_step_post_hook(lambda *_: taken.append(agent.iteration))
    reports = list(agent.iterations(2))
    assert taken == [0] * 3 + [1] * 3
    assert [report["env_steps"] for report in reports] == [28.0, 56.0]
    assert all(torch.isfinite(torch.tensor(value)) for value in reports[-1].values())


def test_a_window_of_the_simulators_gradients_moves_the_policy_once():
    with pytest.raises(UsageError, match="minibatches is 2"):
        SHAC(Reach(), config(update=pathwise(minibatches=2)))


# --- PPO's clipped steps, each with a pathwise gradient as a part --------------------------------


def ppo(**kwargs: Any) -> ClipConfig:
    return ClipConfig(**({"epochs": 2, "batch_size": 17, "lr": 3e-3} | kwargs))


def hybrid(weight: float = 0.3, **kwargs: Any) -> HybridUpdateConfig:
    """PPO's settings are given by name."""
    gradient = PathwiseConfig(action_penalty_weight=0.0)
    return HybridUpdateConfig(ppo=ppo(**kwargs), weight=weight, gradient=gradient)


def frozen_values() -> ValueLearningConfig:
    return ValueLearningConfig(minibatches=2, batch_size=13, lr=0.0)


def test_the_first_ratios_are_of_the_policy_that_acted():
    settings = config(update=hybrid(epochs=1, batch_size=10_000))
    for report in SHAC(Reach(), settings).iterations(3):
        assert abs(report["kl"]) < 1e-6
        assert report["clipped_share"] == 0.0


def test_the_pathwise_gradient_is_a_part_of_every_step():
    """One step of plain descent is by the sum of both gradients, each in the advantages' units."""
    limit, weight = 1e3, 0.7
    one = {"epochs": 1, "batch_size": 10_000, "max_grad_norm": limit, "advantage": "shared"}

    def step(weight: float) -> list[Tensor]:
        settings = config(update=hybrid(weight, **one), value=frozen_values())
        agent = SHAC(Reach(), settings, seed=5)
        optimiser = agent.policy_update.optimiser
        optimiser.adam = torch.optim.SGD(optimiser.weights, lr=1.0, fused=True)
        before = [p.detach().clone() for p in agent.actor.parameters()]
        list(agent.iterations(1))
        after = [p.detach().clone() for p in agent.actor.parameters()]
        return [old - new for old, new in zip(before, after, strict=True)]

    def pathwise() -> list[Tensor]:
        agent = SHAC(Reach(), config(value=frozen_values()), seed=5)
        agent.env.reset(seed=5)
        agent.env.randomise_episode_phase(agent.minibatch_rng)
        noise = agent.noise.draw(HORIZON)
        window = agent.env.rollout(NoisyPolicy(agent.actor, noise), HORIZON)
        advantage = agent.value.targets(window) - agent.critic.target(window.obs)
        deviation = advantage.sum(-1).std()
        loss = agent.policy_update.gradient.return_loss(window)
        grads = torch.autograd.grad(loss, list(agent.actor.parameters()))
        return [grad / deviation for grad in grads]

    for alone, together, grad in zip(step(0.0), step(weight), pathwise(), strict=True):
        torch.testing.assert_close(together - alone, weight * grad, rtol=1e-3, atol=1e-5)


def test_the_weight_falls_evenly_over_its_env_steps(monkeypatch):
    """And goes on falling after a resume; without a weight nothing is differentiated."""
    settings = config(update=replace(hybrid(weight=0.8), weight_steps=4 * 7 * HORIZON))
    agent = SHAC(Reach(num_envs=7), settings)
    weights, windows, collect = [], [], agent.policy_update.collect

    def watched(*args: Any) -> Window:
        window = collect(*args)
        weights.append(agent.policy_update.weight)
        windows.append(window.reward.requires_grad)
        return window

    monkeypatch.setattr(agent.policy_update, "collect", watched)
    list(agent.iterations(6))
    assert weights == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    assert windows == [True, True, True, True, False, False]
    resumed = SHAC(Reach(num_envs=7), settings)
    resumed.load_state_dict(agent.state_dict())
    resumed.policy_update.begin(resumed.env_steps)
    assert resumed.policy_update.weight == 0.0


def test_models_learn_as_long_as_their_gradient_has_a_weight():
    env = learned_reach()
    steps = 2 * env.num_envs * HORIZON
    agent = SHAC(env, config(update=replace(hybrid(weight=0.8), weight_steps=steps)))
    reports = agent.iterations(4)
    assert ["reward_loss" in next(reports) for _ in range(2)] == [True, True]
    before = copy.deepcopy(env.surrogates.state_dict())
    assert ["reward_loss" in report for report in reports] == [False, False]
    after = env.surrogates.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_pathwise_gradient_of_any_size_weighs_no_more_than_its_limit():
    class Steep(Reach):
        def reward(self, *args: Any) -> Tensor:
            return super().reward(*args) * 1e6

    agent = SHAC(Steep(), config(update=hybrid(weight=0.3, max_grad_norm=0.5)))
    agent.env.reset(seed=0)
    window = agent.env.rollout(NoisyPolicy(agent.actor, agent.noise.draw(HORIZON)), HORIZON)
    noise, update = agent.noise.draw(HORIZON), agent.policy_update
    extra_grad, report = update._weighted_gradient(window, noise, torch.tensor(1.0))
    assert report["actor_gradient_norm"] > 1e3
    assert torch.stack([g.norm() for _, g in extra_grad]).norm().item() == pytest.approx(0.3 * 0.5)


@pytest.fixture(scope="module")
def collected() -> tuple[SHAC, Window, Tensor]:
    """Return a trainer that has learned a little (new models and values are flat) and a window."""
    settings = config(update=hybrid(weight=1.0, max_grad_norm=1e9))
    agent = SHAC(learned_reach(), settings, seed=5)
    list(agent.iterations(5))
    agent.env.surrogates.trust.value = 1.0
    noise = agent.noise.draw(HORIZON)
    return agent, agent.env.collect(NoisyPolicy(agent.actor, noise), HORIZON), noise


def gradient_of(collected: tuple[SHAC, Window, Tensor], **kwargs: Any) -> Tensor:
    """Return the pathwise gradient of the window by itself, under some settings."""
    agent, window, noise = collected
    gradient = agent.policy_update.gradient
    gradient.config = replace(gradient.config, **kwargs)
    extra_grad, _ = agent.policy_update._weighted_gradient(window, noise, torch.tensor(1.0))
    return torch.cat([values.flatten() for _, values in extra_grad])


def test_the_pathwise_gradient_may_be_of_segments_of_a_window(collected):
    """Segments of two steps of a window of four: each starts at a state that is a constant."""
    agent, window, noise = collected
    gradient = agent.policy_update.gradient
    gradient.config = replace(gradient.config, minibatches=1, segment_length=2)
    expected = torch.zeros(sum(p.numel() for p in agent.actor.parameters()))
    for rows in (slice(0, 2), slice(2, 4)):
        segment = window.each(lambda values, rows=rows: values[rows])
        segment = agent.env.differentiate(segment, NoisyPolicy(agent.actor, noise[rows]))
        loss = gradient.return_loss(segment)
        grads = torch.autograd.grad(loss, list(agent.actor.parameters()))
        expected += torch.cat([grad.flatten() for grad in grads]) / 2
    assert expected.norm() > 0
    torch.testing.assert_close(gradient_of(collected), expected)
    assert not torch.allclose(gradient_of(collected, segment_length=HORIZON), expected, rtol=1e-2)


def test_the_pathwise_gradient_may_be_of_a_part_of_a_window(collected):
    """Three parts of seven envs hold three, two and two of them: the first, three sevenths."""
    whole = gradient_of(collected, segment_length=HORIZON, minibatches=1)
    parts = torch.stack([gradient_of(collected, minibatches=3) for _ in range(100)])
    assert not torch.allclose(parts[0], whole, rtol=1e-2)
    torch.testing.assert_close(parts.mean(0), whole, rtol=0.2, atol=0.1 * float(whole.abs().max()))


def test_a_window_is_left_when_the_policy_moved_too_far():
    def counted(**kwargs: Any) -> int:
        agent = SHAC(Reach(), config(update=hybrid(epochs=5, batch_size=7, lr=0.3, **kwargs)))
        steps = []
        agent.policy_update.optimiser.adam.register_step_post_hook(lambda *_: steps.append(1))
        list(agent.iterations(1))
        return len(steps)

    assert counted(target_kl=None) == 5 * 4
    assert 1 < counted(target_kl=0.5) < 20


def test_optimistic_values_lie_above_the_mean():
    """Targets are 0 or 1 by the toss of a coin: the τ-expectile is τ."""
    target = torch.tensor([0.0, 1.0]).repeat(500)
    value = torch.tensor(0.8, requires_grad=True)
    (slope,) = torch.autograd.grad(expectile_loss(value.expand(1000), target, expectile=0.8), value)
    assert slope.item() == pytest.approx(0.0, abs=1e-6)
    half = expectile_loss(value.detach().expand(1000), target, expectile=0.5)
    torch.testing.assert_close(half, (target - value.detach()).square().mean())


# --- each agent's own return --------------------------------------------------------------------


def tag(net: NetConfig, **kwargs: Any) -> SHAC:
    gradient = PathwiseConfig(action_penalty_weight=0.0, **kwargs)
    settings = SHACConfig(
        actor=ActorConfig(net=net), update=GradientUpdateConfig(gradient=gradient)
    )
    return SHAC(Tag(differentiable=True), settings)


def hybrid_tag(net: NetConfig) -> SHAC:
    env = LearnedDiffWrapper(Tag())
    settings = SHACConfig.suited_to(env)
    return SHAC(env, replace(settings, actor=replace(settings.actor, net=net)))


@pytest.mark.parametrize(
    ("kind", "build"),
    [(HyperLinearConfig, tag), (SeparateNetConfig, hybrid_tag)],
    ids=["plain, native", "hybrid, learned"],
)
def test_opponents_with_weights_of_their_own_both_learn(kind, build):
    """The chaser at 0 goes towards .8; the runner there flees."""
    agent = build(kind())
    agent.learn(4 * agent.steps_per_iteration)
    action = agent.predict(torch.tensor([[[0.0, 0.8], [0.8, 0.0]]]))[0, :, 0]
    assert (action > 0.3).all()


@pytest.mark.parametrize("kind", [SeparateNetConfig, HyperLinearConfig])
def test_an_agents_weights_get_the_gradient_of_its_own_return(kind):
    """Of all returns together it is 0, as one's loss is the other's gain."""
    agent = tag(kind(hidden=(8,)))
    gradient = agent.policy_update.gradient
    agent.env.reset(seed=0)
    window = agent.env.rollout(NoisyPolicy(agent.actor, torch.zeros(5, 61, 2, 1)), 5)
    gradient.value.critic.target = lambda obs: torch.zeros(obs.shape[:-1])
    weights = list(agent.actor.net.parameters())
    found = torch.autograd.grad(gradient.loss(window), weights, retain_graph=True)
    if kind is SeparateNetConfig:
        for number in (0, 1):
            own = gradient.return_loss(window, number)
            expected = torch.autograd.grad(own, weights, retain_graph=True)
            assert all(
                torch.equal(mine[number], all_of_it[number])
                for mine, all_of_it in zip(found, expected, strict=True)
            )
    team = torch.autograd.grad(gradient.return_loss(window), weights)
    assert max(part.abs().max() for part in team) < 1e-6 < max(part.abs().max() for part in found)


def test_opposed_rewards_under_a_shared_policy_are_told_of():
    for net, credit in ((JointNetConfig(), "auto"), (SeparateNetConfig(), "shared")):
        with pytest.warns(UserWarning, match=r"opposed \(correlation -1.00\)"):
            tag(net, credit=credit).learn(61 * 32)
    with pytest.raises(UsageError, match="the policy's is shared for 2"):
        tag(SharedNetConfig(), credit="individual")
