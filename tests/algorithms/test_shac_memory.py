"""SHAC with recurrent policies and critics: gradients through hidden states, targets, learning."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.reach import ACT, AGENTS, ENVS, Reach, config, learned
from toys.recall import Recall
from toys.recurrent import PLAIN
from toys.spring import HORIZON, Spring, policy_gradient, small, stepped

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.actor_critic.hidden_states import actor_past, critic_past
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, policy_batch
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.torch_env import TorchState
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import shac_actor_loss
from diffsurrogate.nets.config import HyperMLPConfig, JointNetConfig, SeparateNetConfig
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

MEMORY = replace(PLAIN, gru_size=9)
ON_STATES = ValueLearningConfig(minibatches=2, batch_size=13, capacity=0)


def remembering(**changes: Any) -> SHACConfig:
    """Policy and critic with a GRU, in windows of 4 steps of episodes of 8."""
    start = {
        "actor": ActorConfig(net=MEMORY, std=0.3, head_gain=1.0),
        "critic": CriticConfig(net=MEMORY, head_gain=1.0),
        "value": ON_STATES,
    }
    return config(**(start | changes))


def hybrid() -> SHACConfig:
    """PPO's steps besides, with white noise."""
    update = HybridUpdateConfig(ppo=ClipConfig(epochs=2, batch_size=17, lr=3e-3))
    actor = ActorConfig(net=MEMORY, std=0.3, head_gain=1.0, learn_std=True)
    return remembering(update=update, actor=actor, noise=NoiseConfig())


class HiddenGoal(Reach):
    """Points move to goals in [-1, 1]² that they see in the first step only, and move later."""

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        shape = (count, self.num_agents, ACT)
        goal = 2 * torch.rand(shape, generator=generator, device=generator.device) - 1
        return {"x": torch.zeros(shape), "goal": goal, "step": torch.zeros(count, 1, 1)}

    def observe(self, state: TorchState) -> Tensor:
        first = state["step"].expand(-1, self.num_agents, 1) == 0
        shown = torch.where(first, state["goal"], 0.0)
        return torch.cat([state["x"], shown, first.float()], -1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        moved = state["x"] + 0.5 * action * (state["step"] > 0)
        return {"x": moved, "goal": state["goal"], "step": state["step"] + 1}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return -(next_state["x"] - state["goal"]).square().sum(-1)


# --- gradients -----------------------------------------------------------------------------------


def window_of(agent: SHAC) -> tuple[Window, Tensor]:
    """The next window, as the trainer collects it, and its noise."""
    agent.env.detach()
    noise = agent.noise.draw(agent.config.horizon)
    policy = agent.hidden.policy(agent.env, noise)
    window = agent.policy_update.collect(policy, agent.config.horizon)
    return agent.hidden.record(window, policy), noise


def test_the_gradient_is_that_of_stepping_through_policy_simulator_and_critic():
    """Through the hidden states of both, over resets inside the window and a window before."""
    agent = SHAC(Reach(), remembering(), seed=1).learn(3 * 4 * ENVS)
    state, hidden = agent.env.state(), agent.hidden.state_dict()
    window, noise = window_of(agent)
    assert window.ended[:-1].any() and hidden["actor"].any() and hidden["critic"].any()
    weights = list(agent.actor.parameters())
    found = torch.autograd.grad(agent.policy_update.gradient.return_loss(window), weights)

    agent.env.set_state(state)
    agent.env.detach()
    net, rows = agent.critic.target_net, []
    remembered, valued = hidden["actor"], hidden["critic"]
    for step in range(4):
        obs, start = agent.env.current_obs, agent.env.episode_start
        action, remembered = agent.actor.act_next(obs, noise[step], remembered, start)
        _, reward, terminated, truncated, info = agent.env.step(action)
        seen, led_to = (net.encoder(agent.critic.statistics(x)) for x in (obs, info["final_obs"]))
        valued = net.memory(seen[None], valued, start[None])[0]
        after = net.memory(led_to[None], valued, torch.zeros(1, ENVS) > 0)[0]
        rows.append((reward, net.net(after).squeeze(-1), terminated, truncated))
    steps = map(torch.stack, zip(*rows, strict=True))
    expected = torch.autograd.grad(shac_actor_loss(*steps, gamma=0.99), weights)
    for one, other in zip(found, expected, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dynamics", ["step", "awm"])
@pytest.mark.parametrize("loop", ["closed", "open"])
def test_a_window_differentiated_afterwards_equals_stepping(dynamics, loop):
    """Resets inside the window: time limits at 3 of 5 steps."""
    results = []
    for stepping in (False, True):
        env = LearnedDiffWrapper(Spring(max_steps=3), config=small(dynamics, loop=loop))
        env.reset(seed=2)
        torch.manual_seed(3)
        actor = build_actor(ActorConfig(net=MEMORY, head_gain=1.0), env)
        shape = (HORIZON, env.num_envs, env.num_agents, env.act_dim)
        hidden = None
        for _ in range(3):  # trains the models, whose last layers are zero before
            env.detach()
            policy = actor.exploring(env, torch.randn(shape), hidden)
            env.fit(env.rollout(policy, HORIZON))
            hidden = policy.hidden.detach()
        env.detach()
        policy = actor.exploring(env, torch.randn(shape), hidden)
        window = stepped(env, policy) if stepping else env.rollout(policy, HORIZON)
        results.append((window.reward, window.action, policy_gradient(window, policy)))
    assert results[0][2].any()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_part_of_a_window_goes_on_from_the_hidden_states_it_had():
    """At once and step by step, over resets; steps are taken in their order."""
    agent = SHAC(learned(Reach(differentiable=False)), remembering(), seed=1)
    agent.learn(3 * 4 * ENVS)
    window, noise = window_of(agent)
    assert window.ended[:-1].any()
    generator = torch.Generator().manual_seed(0)
    for part, drawn in minibatches(window, noise, length=2, count=3, generator=generator):
        policy = agent.actor.replaying(drawn, actor_past(part))
        torch.testing.assert_close(policy.at(part.obs, slice(None)), part.action)
        for step in range(2):
            torch.testing.assert_close(policy.at(part.obs[step], step), part.action[step])
        policy.at(part.obs[0], 0)
        with pytest.raises(ValueError, match="step 2 was asked for, but 1 is next"):
            policy.at(part.obs[1], 2)


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_densities_are_those_of_the_noise_whatever_came_before(state_dependent_std):
    """Window after window, of whole windows of any envs."""
    settings = hybrid()
    actor = replace(
        settings.actor,
        learn_std=not state_dependent_std,
        state_dependent_std=state_dependent_std,
    )
    agent = SHAC(learned(Reach(differentiable=False)), replace(settings, actor=actor), seed=1)
    for _ in range(3):
        agent.learn(agent.env_steps + 4 * ENVS)
        window, noise = window_of(agent)
        out, _ = agent.actor.unroll(window.obs, actor_past(window))
        _, log_std = agent.actor._gaussian(out)
        density = torch.distributions.Normal(0.0, 1.0).log_prob(noise) - log_std
        batch = policy_batch(window, agent.actor, window.reward)
        torch.testing.assert_close(batch.log_prob, density.sum(-1), atol=1e-4, rtol=1e-4)


def test_a_critic_learns_from_whole_windows_and_values_both_ends_of_a_step():
    agent = SHAC(Reach(), remembering(), seed=1).learn(3 * 4 * ENVS)
    window, _ = window_of(agent)
    past = critic_past(window)
    value = agent.critic.target(window.obs, past)
    following = agent.critic.target_after(window.obs, window.next_obs, past)
    goes_on = ~window.ended[:-1]
    torch.testing.assert_close(following[:-1][goes_on], value[1:][goes_on])
    window = window.detach()
    target = window.reward
    before = (agent.critic(window.obs, past) - target).square().mean()
    for _ in range(20):
        agent.value.fit(window, target)
    assert (agent.critic(window.obs, past) - target).square().mean() < 0.5 * before


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "solves"), [(16, True), (0, False)])
def test_shac_reaches_a_goal_it_saw_once(memory, solves):
    """The simulator's gradient passes through what the policy remembers.

    Without memory the best is to stay at the middle: 8 steps of 2 / 3 each, of three agents.
    """
    net = replace(JointNetConfig(hidden=(16,), layer_norm=False), gru_size=memory)
    settings = config(
        horizon=8,
        actor=ActorConfig(net=net, std=0.2),
        update=GradientUpdateConfig(lr=1e-2),
        randomise_episode_phase=False,
    )
    agent = SHAC(HiddenGoal(num_envs=64), settings, seed=1).learn(60 * 8 * 64)
    env = HiddenGoal(num_envs=501)
    cost = -evaluate(agent.policy(env), env, seed=1).mean_return / (8 * AGENTS * 2 / 3)
    assert cost < 0.4 if solves else cost > 0.9


def test_shac_plus_plus_recalls():
    """Of three agents, all are right; without memory, half by chance (test_learning.py)."""
    net = SeparateNetConfig(hidden=(16,), gru_size=16, layer_norm=False)
    start = SHACConfig.hybrid(64)
    settings = replace(
        start,
        horizon=8,
        actor=ActorConfig(net=net),
        critic=CriticConfig(net=net),
        value=replace(start.value, minibatches=10),
    )
    agent = SHAC(LearnedDiffWrapper(Recall(num_envs=64)), settings, seed=1).learn(10 * 8 * 64)
    env = Recall(num_envs=501)
    share = evaluate(agent.policy(env), env, seed=1).normalised_return
    assert share is not None and share >= 0.95


# --- invalid settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "advice"),
    [
        (lambda: CriticConfig(net=MEMORY, ensemble=2), "set ensemble to 1"),
        (lambda: remembering(value=ValueLearningConfig()), "set value.capacity to 0"),
        (
            lambda: SHAC(
                Reach(),
                remembering(
                    actor=ActorConfig(net=HyperMLPConfig(gru_size=5)),
                    update=GradientUpdateConfig(gradient=PathwiseConfig(credit="individual")),
                ),
            ),
            "credit='individual' needs",
        ),
    ],
)
def test_what_memory_does_not_go_with_is_refused(build, advice):
    with pytest.raises(UsageError, match=advice):
        build()
