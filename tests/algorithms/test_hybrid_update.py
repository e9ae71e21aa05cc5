"""SHAC that also climbs PPO's objective: learns without slopes, saves, and is refused in time."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.reach import (
    AGENTS,
    ENVS,
    HORIZON,
    Reach,
    config,
    learned_reach,
    mean_return,
    same,
    weights,
)

from diffsurrogate.actor_critic.actor import ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import expectile_loss
from diffsurrogate.nets.config import NetConfig

SHARED = NetConfig(architecture="shared", hidden=(32,))


def score(**kwargs: Any) -> ClipConfig:
    return ClipConfig(**({"epochs": 2, "batch_size": 17, "lr": 3e-3} | kwargs))


@pytest.mark.parametrize("kind", ["white", "ou"])
def test_ppo_steps_alone_lead_points_to_the_origin(kind):
    """Nothing of the pathwise gradient is left at a weight of 0; -5.3 at the start."""
    settings = config(
        actor=ActorConfig(net=SHARED, std=0.3),
        critic=CriticConfig(net=SHARED),
        noise=NoiseConfig(kind=kind, correlation=0.5),
        pathwise_weight=0.0,
        score=score(epochs=4, batch_size=61),
    )
    agent = SHAC(Reach(num_envs=61), settings)
    before = mean_return(agent)
    agent.learn(60 * 61 * HORIZON)
    assert before < -3
    assert mean_return(agent) > -1.0


def test_the_first_ratios_are_of_the_policy_that_acted():
    settings = config(score=score(epochs=1, batch_size=10_000))
    for report in SHAC(Reach(), settings).iterations(3):
        assert abs(report["kl"]) < 1e-6
        assert report["clipped_share"] == 0.0


def test_the_pathwise_gradient_is_a_part_of_every_step():
    """One step of plain descent is by the sum of both gradients, each in the advantages' units."""
    limit, weight = 1e3, 0.7
    settings = {"critic_lr": 0.0, "action_penalty_weight": 0.0}
    one = {"epochs": 1, "batch_size": 10_000, "max_grad_norm": limit, "advantage": "team"}

    def step(pathwise_weight: float, **kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
        agent = SHAC(
            Reach(),
            config(score=score(**one), pathwise_weight=pathwise_weight, **settings, **kwargs),
            seed=5,
        )
        agent.score_optimiser = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
        before = [p.detach().clone() for p in agent.actor.parameters()]
        list(agent.iterations(1))
        after = [p.detach().clone() for p in agent.actor.parameters()]
        return before, [old - new for old, new in zip(before, after, strict=True)]

    def pathwise() -> list[Tensor]:
        agent = SHAC(Reach(), config(**settings), seed=5)
        agent.env.reset(seed=5)
        agent.env.randomise_episode_phase(agent.minibatch_rng)
        noise = agent.noise.draw(HORIZON)
        window = agent.env.rollout(NoisyPolicy(agent.actor, noise), HORIZON)
        advantage = agent.value_targets(window) - agent.critic.target(window.obs)
        deviation = advantage.sum(-1).std()
        grads = torch.autograd.grad(agent.return_loss(window), list(agent.actor.parameters()))
        return [grad / deviation for grad in grads]

    _, score_only = step(0.0)
    _, both = step(weight)
    for alone, together, grad in zip(score_only, both, pathwise(), strict=True):
        torch.testing.assert_close(together - alone, weight * grad, rtol=1e-3, atol=1e-5)


def test_a_pathwise_gradient_of_any_size_weighs_no_more_than_its_limit():
    class Steep(Reach):
        def reward(self, *args: Any) -> Tensor:
            return super().reward(*args) * 1e6

    agent = SHAC(Steep(), config(score=score(max_grad_norm=0.5), pathwise_weight=0.3))
    agent.env.reset(seed=0)
    window = agent.env.rollout(NoisyPolicy(agent.actor, agent.noise.draw(HORIZON)), HORIZON)
    extra_grad, report = agent._pathwise(window, agent.noise.draw(HORIZON), torch.tensor(1.0))
    assert report["actor_gradient_norm"] > 1e3
    assert torch.stack([g.norm() for _, g in extra_grad]).norm().item() == pytest.approx(0.3 * 0.5)


def test_the_pathwise_gradient_fades_out():
    """A window is 61 envs by 5 steps, so that 4 of them are as many steps as it takes."""
    env = Reach(num_envs=61)
    settings = config(score=score(), pathwise_weight=0.6, pathwise_steps=4 * 61 * HORIZON)
    reports = list(SHAC(env, settings).iterations(6))
    weights = [report["pathwise_weight"] for report in reports]
    assert weights == pytest.approx([0.6, 0.45, 0.3, 0.15, 0.0, 0.0])
    differentiated = ["actor_gradient_norm" in report for report in reports]
    assert differentiated == [True, True, True, True, False, False]


def test_a_policy_without_any_gradient_is_refused():
    with pytest.raises(UsageError, match=r"set score\.epochs"):
        config(pathwise_steps=1000)
    with pytest.raises(UsageError, match="where it is already"):
        config(score=score(), pathwise_steps=1000, pathwise_weight=0.0)


@pytest.fixture(scope="module")
def collected() -> tuple[SHAC, Window, Tensor]:
    """Return a trainer that has learned a little (new models and values are flat) and a window."""
    settings = config(
        score=score(max_grad_norm=1e9), pathwise_weight=1.0, action_penalty_weight=0.0
    )
    agent = SHAC(learned_reach(), settings, seed=5)
    list(agent.iterations(5))
    noise = agent.noise.draw(HORIZON)
    return agent, agent.env.collect(NoisyPolicy(agent.actor, noise), HORIZON), noise


def pathwise(collected: tuple[SHAC, Window, Tensor], **kwargs: Any) -> Tensor:
    """Return the pathwise gradient of the window by itself, under some settings."""
    agent, window, noise = collected
    agent.config = replace(agent.config, **kwargs)
    extra_grad, _ = agent._pathwise(window, noise, torch.tensor(1.0))
    return torch.cat([values.flatten() for _, values in extra_grad])


def test_the_pathwise_gradient_may_be_of_pieces_of_a_window(collected):
    """Pieces of two steps of a window of four: each starts at a state that is a constant."""
    agent, window, noise = collected
    agent.config = replace(agent.config, actor_minibatches=1, segment_length=2)
    expected = torch.zeros(sum(p.numel() for p in agent.actor.parameters()))
    for rows in (slice(0, 2), slice(2, 4)):
        piece = window.each(lambda values, rows=rows: values[rows])
        piece = agent.env.differentiate(piece, NoisyPolicy(agent.actor, noise[rows]))
        grads = torch.autograd.grad(agent.return_loss(piece), list(agent.actor.parameters()))
        expected += torch.cat([grad.flatten() for grad in grads]) / 2
    assert expected.norm() > 0
    torch.testing.assert_close(pathwise(collected), expected)
    assert not torch.allclose(pathwise(collected, segment_length=HORIZON), expected, rtol=1e-2)


def test_the_pathwise_gradient_may_be_of_a_part_of_a_window(collected):
    """Three parts of seven envs hold three, two and two of them: the first, three sevenths."""
    whole = pathwise(collected, segment_length=HORIZON, actor_minibatches=1)
    parts = torch.stack([pathwise(collected, actor_minibatches=3) for _ in range(200)])
    assert not torch.allclose(parts[0], whole, rtol=1e-2)
    torch.testing.assert_close(parts.mean(0), whole, rtol=0.2, atol=0.1 * float(whole.abs().max()))


def test_passes_of_pathwise_steps_are_refused():
    with pytest.raises(UsageError, match="actor_epochs to 1"):
        config(score=score(), actor_epochs=2)


def test_a_window_is_left_when_the_policy_moved_too_far():
    steps = []

    def counted(**kwargs: Any) -> int:
        agent = SHAC(Reach(), config(score=score(epochs=5, batch_size=7, lr=0.3, **kwargs)))
        descend = agent._descend
        steps.clear()

        def count(optimiser: Any, *args: Any) -> float:
            steps.append(optimiser is agent.score_optimiser)
            return descend(optimiser, *args)

        agent._descend = count
        list(agent.iterations(1))
        return sum(steps)

    assert counted(target_kl=None) == 5 * 4
    assert 1 < counted(target_kl=0.5) < 20


def test_optimistic_values_lie_above_the_mean():
    """Targets are 0 or 1 by the toss of a coin: the τ-expectile is τ."""
    torch.manual_seed(0)
    target = torch.randint(2, (1000, 1)).float()
    share = float(target.mean())
    value = torch.zeros(1, 1, requires_grad=True)
    optimiser = torch.optim.SGD([value], lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        expectile_loss(value.expand_as(target), target, expectile=0.8).backward()
        optimiser.step()
    assert value.item() == pytest.approx(0.8 * share / (0.8 * share + 0.2 * (1 - share)), abs=1e-4)
    half = expectile_loss(value.detach().expand_as(target), target, expectile=0.5)
    torch.testing.assert_close(half, (target - value.detach()).square().mean())


def test_without_epochs_nothing_changes():
    """0 epochs is the default; the rest of the score's settings is then idle."""

    def trained(**kwargs: Any) -> list[Tensor]:
        return weights(SHAC(Reach(), config(**kwargs)).learn(84))

    assert SHACConfig().score.epochs == 0
    assert same(trained(), trained(score=score(epochs=0, lr=0.5)))
    assert not same(trained(), trained(score=score()))


def test_every_agents_credit_is_its_own_or_the_teams():
    """Only agent 2 earns anything: alone it learns, as a team all agents are moved."""

    class Paid(Reach):
        def reward(self, *args: Any) -> Tensor:
            return super().reward(*args) * torch.tensor([0.0, 0.0, 1.0])

    def moved(advantage: str) -> list[bool]:
        net = NetConfig(architecture="separate", hidden=(8,))
        settings = config(
            actor=ActorConfig(net=net),
            critic=CriticConfig(net=net, target_decay=0.0),
            critic_lr=0.0,  # its values stay 0
            pathwise_weight=0.0,
            score=score(advantage=advantage, normalise=False, lr=0.1),
        )
        agent = SHAC(Paid(num_envs=ENVS), settings)
        before = [p.detach().clone() for p in agent.actor.parameters()]
        agent.learn(28)
        changes = zip(agent.actor.parameters(), before, strict=True)
        change = sum((now - old).abs().flatten(1).sum(1) for now, old in changes)
        assert change.shape == (AGENTS,)
        return (change > 0).tolist()

    assert moved("own") == [False, False, True]
    assert moved("team") == [True, True, True]
