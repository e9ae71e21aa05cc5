"""The entropy bonus: its value, what it does to targets and gradients, and its temperature."""

import math
from dataclasses import replace

import pytest
import torch
from toys.reach import Reach

from diffsurrogate import SHAC, ActorConfig, LearnedDiffWrapper, SHACConfig, make
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.max_entropy import EntropyConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import td_lambda

ENVS, HORIZON = 5, 8


def cartpole() -> MultiAgentVectorEnv:
    return make("diffsurrogate/cartpole-swingup", num_envs=ENVS, differentiable=True)


def config(temperature: float = 2.0, *, std: float = 0.5, **entropy: float) -> SHACConfig:
    return SHACConfig(
        horizon=HORIZON,
        actor=ActorConfig(std=std, learn_std=True, squash=True),
        noise=NoiseConfig(kind="white"),
        entropy=EntropyConfig(temperature=temperature, **entropy),
    )


def window_of(agent: SHAC) -> Window:
    agent.env.reset(seed=0)
    return agent.env.collect(agent.predict, HORIZON)


def test_the_bonus_is_nothing_at_the_target_and_the_temperature_at_its_opposite():
    agent = SHAC(cartpole(), config(target=-0.25))
    window = window_of(agent)
    entropy = agent.actor.entropy(window.obs)
    torch.testing.assert_close(agent.entropy.of(window), 2 * (entropy + 0.25) / 0.5)

    dead = replace(window, alive_mask=torch.zeros_like(window.reward, dtype=torch.bool))
    assert agent.entropy.of(dead).abs().max() == 0


def test_targets_and_the_gradient_count_the_bonus():
    plain, soft = (SHAC(cartpole(), config(temperature)) for temperature in (0.0, 2.0))
    window = window_of(plain)
    expected = td_lambda(
        window.reward + soft.entropy.of(window),
        soft.critic.low_target_after(window.obs, window.next_obs),
        window.terminated,
        window.truncated,
        gamma=soft.value.gamma,
        lam=soft.config.value.lam,
    )
    torch.testing.assert_close(soft.value.targets(window), expected)
    assert (expected - plain.value.targets(window)).abs().min() > 0.1

    loss = soft.policy_update.gradient.loss(window)  # of states and rewards without a graph
    (slope,) = torch.autograd.grad(loss, soft.actor.log_std)
    assert slope.item() < 0  # a wider policy is better


@pytest.mark.parametrize(("std", "rises"), [(0.01, True), (0.7, False)])
def test_the_temperature_rises_below_the_target_and_falls_above(std, rises):
    agent = SHAC(cartpole(), config(std=std, lr=0.1))
    metrics = agent.entropy.adapt(window_of(agent))
    assert (metrics["temperature"] > 2) == rises
    assert metrics["temperature"] == pytest.approx(2 * math.exp(0.1 if rises else -0.1), rel=1e-4)
    assert (metrics["entropy"] < -0.5) == rises
    fixed = SHAC(cartpole(), config(std=std, lr=0.0))
    assert fixed.entropy.adapt(window_of(fixed))["temperature"] == pytest.approx(2)


@pytest.mark.parametrize("temperature", [0.0, 20.0])
def test_a_narrow_policy_widens_for_the_bonus_only(temperature):
    fast = replace(config(temperature, std=0.02), update=GradientUpdateConfig(lr=0.1))
    agent = SHAC(cartpole(), fast)
    obs = window_of(agent).obs
    assert agent.actor.entropy(obs).mean() < -2.4
    agent.learn(20 * agent.steps_per_iteration)
    assert (agent.actor.entropy(obs).mean() > -1.5) == (temperature > 0)


@pytest.mark.parametrize(
    ("env", "actor", "reason"),
    [
        ("games/climbing", ActorConfig(), "discrete"),
        ("diffsurrogate/cartpole-swingup", ActorConfig(), "fixed here"),
    ],
)
def test_a_bonus_without_effect_is_refused(env, actor, reason):
    learned = LearnedDiffWrapper(make(env, num_envs=ENVS))
    with pytest.raises(UsageError, match=reason):
        SHAC(learned, replace(config(), actor=actor))


def test_a_target_at_or_above_zero_is_refused():
    with pytest.raises(UsageError, match="below 0"):
        EntropyConfig(temperature=1.0, target=0.0)


def test_the_target_counts_no_padding():
    env = Reach()
    env.valid_action_dims[0, 1] = False  # as of an agent with one number less
    assert SHAC(env, config(target=-0.5)).entropy.target.tolist() == [-0.5, -1.0, -1.0]
