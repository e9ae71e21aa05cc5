"""What SHAC's policy descends: returns, the action penalty, several steps per window."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from toys.reach import (
    ACT,
    AGENTS,
    ENVS,
    OBS,
    Reach,
    config,
    learned_reach,
    same,
)

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, PathwiseConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError


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
    agent.critic.target = lambda obs: obs[..., 0]
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


@pytest.mark.parametrize("action_penalty_on", ["samples", "means"])
def test_the_penalty_moves_a_mean_back_into_the_box(action_penalty_on):
    update = replace(pathwise(action_penalty_on=action_penalty_on), lr=0.05)
    agent = SHAC(Reach(), config(update=update))
    agent.policy_update.gradient.return_loss = lambda window: window.action.sum() * 0.0
    with torch.no_grad():
        agent.actor.net.head.bias.fill_(3.0)
    agent.learn(100 * 28)
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


@pytest.mark.parametrize("kwargs", [{"minibatches": 2}, {"segment_length": 2}])
def test_a_window_of_the_simulators_gradients_moves_the_policy_once(kwargs):
    with pytest.raises(UsageError, match="minibatches and segment_length"):
        SHAC(Reach(), config(update=pathwise(**kwargs)))
