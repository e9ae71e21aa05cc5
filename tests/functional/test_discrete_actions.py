"""Gradients through discrete actions, against a matrix game whose expected reward is known."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys.reach import config, learned_reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import (
    counterfactual_actions,
    mixup_loss,
    one_hot_argmax,
    straight_through_one_hot,
)
from diffsurrogate.nets.config import SharedNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

CHOICES = 3
PAYOFF = torch.tensor([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])
"""Of the climbing game; rows are agent 0's choices."""


def payoff(action: Tensor) -> Tensor:
    """Multilinear in the rows of both agents: (*batch, 2, 3) to (*batch,)."""
    return torch.einsum("...i,ij,...j->...", action[..., 0, :], PAYOFF, action[..., 1, :])


class Climbing(TorchEnv):
    """One step, two agents, one payoff for both."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(
            num_envs=num_envs, agents=["a", "b"], obs_dim=4, act_dim=CHOICES, discrete_actions=True
        )

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"obs": torch.ones(count, 2, 4)}

    def observe(self, state: TorchState) -> Tensor:
        return state["obs"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return state

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return payoff(action).unsqueeze(-1).expand(-1, 2)

    def terminated(self, state: TorchState) -> Tensor:
        return torch.ones(self.num_envs, dtype=torch.bool)


class Payoff(nn.Module):
    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return payoff(action).unsqueeze(-1).expand(*action.shape[:-1])


class Still(nn.Module):
    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return obs


either_gradient = pytest.mark.parametrize(
    "gradient", [PathwiseConfig(), AllActionConfig()], ids=["pathwise", "all-action"]
)


def opinionated(env: LearnedDiffWrapper, update: Any = GradientUpdateConfig()) -> SHAC:  # noqa: B008
    """Agents that prefer some choices to others, each its own."""
    settings = config(horizon=1, update=update, noise=NoiseConfig(), actor=ActorConfig())
    agent = SHAC(env, settings, seed=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in agent.actor.net.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return agent


def gradients(agent: SHAC, env: LearnedDiffWrapper) -> tuple[Tensor, Tensor]:
    """Return the gradient of a window's loss and that of the expected payoff."""
    env.reset(seed=0)
    weights = list(agent.actor.net.parameters())
    window = env.rollout(NoisyPolicy(agent.actor, agent.noise.draw(1)), 1)
    chances = agent.actor(torch.ones(2, 4)).softmax(-1)
    found, true = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        for loss in (agent.policy_update.gradient.loss(window), -payoff(chances))
    )
    return found, true


@either_gradient
def test_the_gradient_is_that_of_the_expected_payoff(gradient):
    """Its mean over 20,000 games; each agent sees the other's choice as it was drawn."""
    env = LearnedDiffWrapper(Climbing(20_000), reward=Payoff(), dynamics=Still())
    found, true = gradients(opinionated(env, GradientUpdateConfig(gradient=gradient)), env)
    assert true.norm() > 0.1
    assert (found - true).norm() < 0.1 * true.norm()


class MaskedClimbing(Climbing):
    """Agent a may not choose 1, nor agent b 0; the last three columns of obs say so."""

    action_mask_slice = slice(1, 4)
    mask = torch.tensor([[1.0, 1, 0, 1], [1.0, 0, 1, 1]])

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"obs": self.mask.expand(count, 2, 4).clone()}


@either_gradient
def test_the_gradient_is_that_of_the_expected_payoff_of_the_available_actions(gradient):
    r"""With logits $l$ of a's choices 0 and 2 alone, $dE/dl_0 = \pi_0 \pi_2 (u_0 - u_2)$.

    Their worths are $u_0 = -30 q_1 + 0 q_2$ and $u_2 = 0 q_1 + 5 q_2$ under b's chances q of 1
    and 2.
    """
    env = LearnedDiffWrapper(MaskedClimbing(20_000), reward=Payoff(), dynamics=Still())
    agent = opinionated(env, GradientUpdateConfig(gradient=gradient))
    env.reset(seed=0)
    window = env.rollout(NoisyPolicy(agent.actor, agent.noise.draw(1)), 1)
    head: Any = agent.actor.net.head  # its bias is added to the logits of both
    (slope,) = torch.autograd.grad(agent.policy_update.gradient.loss(window), head.bias)
    p, q = agent.actor(MaskedClimbing.mask).softmax(-1).tolist()
    assert (p[1], q[0]) == (0, 0) and min(p[0], p[2], q[1], q[2]) > 0.01
    of_a = p[0] * p[2] * (-30 * q[1] - 5 * q[2])
    of_b = q[1] * q[2] * (-30 * p[0] - 5 * p[2])  # of 1 over 2: -30 and 0, against 0 and 5
    expected = torch.tensor([[of_a, 0, -of_a], [0, of_b, -of_b]])
    torch.testing.assert_close(-slope.view(2, 3), expected, rtol=0.05, atol=0.02)
    assert not slope.view(2, 3)[expected == 0].any()


def test_a_learned_payoff_points_the_same_way():
    """Trained on pure choices only, but told to be linear between them."""
    surrogates = SurrogateConfig(fit=FitConfig(minibatches=50, batch_size=128, reward_balance=0.0))
    env = LearnedDiffWrapper(Climbing(600), dynamics=Still(), config=surrogates)
    agent = opinionated(env)
    env.reset(seed=1)
    for _ in range(3):
        env.fit(env.collect(NoisyPolicy(agent.actor, agent.noise.draw(1)), 1))
    found, true = gradients(agent, env)
    assert torch.cosine_similarity(found, true, dim=0) > 0.95


def test_one_hot_actions_pass_the_gradient_of_their_probabilities():
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    chances = logits.softmax(-1)
    choice = straight_through_one_hot(torch.tensor([[0.1, 5.0, 0.2]]), chances)
    assert choice.tolist() == [[0.0, 1.0, 0.0]]
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    (choice * slope).sum().backward()
    expected = chances * (slope - (chances * slope).sum())  # of the softmax
    torch.testing.assert_close(logits.grad, expected.detach())


def test_counterfactual_actions_change_one_agent_at_a_time():
    action = one_hot_argmax(torch.randn(7, 2, CHOICES, generator=torch.Generator().manual_seed(0)))
    instead = counterfactual_actions(action)
    assert instead.shape == (2, CHOICES, 7, 2, CHOICES)
    for agent in range(2):
        for choice in range(CHOICES):
            rows = instead[agent, choice]
            assert (rows[:, agent].argmax(-1) == choice).all()
            assert torch.equal(rows[:, 1 - agent], action[:, 1 - agent])


def test_the_error_on_mixtures_vanishes_for_what_is_linear_in_each_agents_choice():
    generator = torch.Generator().manual_seed(0)
    action = 2 * one_hot_argmax(torch.randn(500, 2, CHOICES, generator=generator)) - 1
    assert mixup_loss(payoff, action, generator) < 1e-6
    bent = mixup_loss(lambda a: a[..., 0, 0] ** 2, action, generator)
    # half of the samples mix agent 0; 1/3 + 2/9 ... at most (1 - (2λ - 1)²)² where 1 meets -1
    share = 0.5 * (4 / 9)
    assert bent.item() == pytest.approx(share * 8 / 15, rel=0.3)


class Line(TorchEnv):
    """Agents walk a line to 0 by steps of a quarter, left, right or not at all."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=["a", "b"],
            obs_dim=1,
            act_dim=CHOICES,
            discrete_actions=True,
            max_steps=8,
        )

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": 2 * torch.rand(count, 2, 1, generator=generator) - 1}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + action @ torch.tensor([[-0.25], [0.0], [0.25]])}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return -next_state["x"].square().squeeze(-1)


@either_gradient
def test_a_team_learns_discrete_actions(gradient):
    """At best every agent is within an eighth of 0 after a few steps; at random it strays."""
    net = SharedNetConfig(hidden=(32,))
    settings = config(
        horizon=8,
        actor=ActorConfig(net=net),
        critic=CriticConfig(net=net),
        noise=NoiseConfig(),
        update=GradientUpdateConfig(gradient=gradient, lr=0.01),
        value=ValueLearningConfig(minibatches=4, batch_size=128),
    )
    env = LearnedDiffWrapper(
        Line(61), config=SurrogateConfig(fit=FitConfig(minibatches=4, batch_size=128))
    )
    agent = SHAC(env, settings, seed=1).learn(15 * 61 * 8)
    judge = Line(400)
    obs, _ = judge.reset(seed=9)
    for _ in range(7):
        obs, reward, *_ = judge.step(agent.predict(obs))
    assert reward.mean() > -0.1  # -1/3 at the start, -0.6 of a random walk, -3.5 untrained


def test_actions_that_an_agent_lacks_are_never_taken():
    box = torch.zeros(2, CHOICES), torch.ones(2, CHOICES)
    available = torch.tensor([[True, True, True], [True, False, True]])
    actor = Actor(ActorConfig(), 2, 4, *box, discrete=True, valid=available)
    noise = torch.randn(500, 2, CHOICES, generator=torch.Generator().manual_seed(0))
    obs = torch.randn(500, 2, 4, generator=torch.Generator().manual_seed(1))
    chosen = actor.act(obs, noise).sum(0)
    assert (chosen[available] > 0).all()
    assert chosen[1, 1] == 0
    two, three = torch.log(torch.tensor(2.0)), torch.log(torch.tensor(3.0))
    entropy = actor.entropy(obs).mean(0)
    torch.testing.assert_close(entropy, torch.stack([three, two]), atol=0.01, rtol=0)
    assert actor.log_prob(obs, actor.act(obs, noise)).isfinite().all()
    assert "missing" not in actor.state_dict()


def test_correlated_noise_is_refused_for_clipped_steps_of_discrete_actions():
    update = HybridUpdateConfig(ppo=ClipConfig(epochs=1))
    with pytest.raises(UsageError, match="use white noise"):
        SHAC(LearnedDiffWrapper(Line(3)), SHACConfig(update=update, noise=NoiseConfig(kind="ou")))


def test_what_needs_discrete_actions_is_refused_without():
    with pytest.raises(UsageError, match=r"actions are (numbers|continuous)"):
        SHAC(learned_reach(), SHACConfig(update=GradientUpdateConfig(gradient=AllActionConfig())))
    with pytest.raises(UsageError, match="has none"):
        SHAC(Line(3))
    with pytest.raises(UsageError, match="pass no gradient"):
        Line(3).enable_gradients("dynamics")
    with pytest.raises(UsageError, match="step model"):
        LearnedDiffWrapper(
            Line(3), config=SurrogateConfig(dynamics=ActionWorldModelConfig())
        ).predict_step(torch.zeros(1, 2, 1), torch.zeros(1, 2, CHOICES))
