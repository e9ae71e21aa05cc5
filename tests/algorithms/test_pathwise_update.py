"""What SHAC's policy descends: returns, the box, falling noise, several steps per window."""

import pytest
import torch
from toys.reach import (
    ACT,
    AGENTS,
    ENVS,
    HORIZON,
    OBS,
    Reach,
    config,
    learned_reach,
    mean_return,
    same,
)

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig


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
            action_penalty_weight=action_penalty_weight,
            action_penalty_on=action_penalty_on,
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
    assert agent.actor_loss(window).item() == pytest.approx(loss)


def test_noise_does_not_bias_a_mean_inside_the_box():
    """Half the samples of a policy of deviation 3 are outside; its mean is not."""
    agent = SHAC(
        Reach(),
        config(actor=ActorConfig(std=3.0), action_penalty_weight=1e3, action_penalty_on="means"),
    )
    agent.return_loss = lambda window: window.action.sum() * 0.0
    agent.learn(5 * 28)
    assert agent.actor(torch.randn(ENVS, AGENTS, OBS)).abs().max() < 1
    weights_before = [p.clone() for p in agent.actor.parameters()]
    agent.learn(10 * 28)
    assert same(weights_before, list(agent.actor.parameters()))


@pytest.mark.parametrize("action_penalty_on", ["samples", "means"])
def test_a_mean_outside_the_box_is_pulled_back(action_penalty_on):
    agent = SHAC(Reach(), config(actor_lr=0.05, action_penalty_on=action_penalty_on))
    agent.return_loss = lambda window: window.action.sum() * 0.0
    with torch.no_grad():
        agent.actor.net.head.bias.fill_(3.0)
    agent.learn(100 * 28)
    assert agent.actor(torch.zeros(ENVS, AGENTS, OBS)).abs().max() < 1.1


def test_the_deviation_falls_to_its_end_and_stays():
    """From 1 to .25 over 4 windows of 28 steps, geometrically; the first is drawn with 1."""
    agent = SHAC(Reach(), config(actor=ActorConfig(std=1.0), final_std=0.25, std_steps=4 * 28))
    seen = [float(agent.actor.log_std.exp()[0]) for _ in agent.iterations(6)]
    assert seen == pytest.approx([1.0, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.25])


def test_a_learned_deviation_cannot_also_fall():
    with pytest.raises(UsageError, match="final_std"):
        SHACConfig(actor=ActorConfig(learn_std=True), final_std=0.1)


def test_lambda_returns_lead_points_to_the_origin():
    net = NetConfig(architecture="shared", hidden=(32,))
    settings = config(
        actor=ActorConfig(net=net, std=0.3),
        critic=CriticConfig(net=net),
        actor_lr=0.01,
        actor_lam=0.8,
        final_std=0.05,
        std_steps=100 * 61 * HORIZON,
        noise=NoiseConfig(),
    )
    agent = SHAC(Reach(num_envs=61), settings).learn(total_steps=200 * 61 * HORIZON)
    assert mean_return(agent) > -1 / 12 - 0.1


def test_a_window_can_move_the_policy_several_times():
    """Two passes of three minibatches: six steps; one update of one window as ever."""
    agent = SHAC(learned_reach(), config(actor_epochs=2, actor_minibatches=3, segment_length=2))
    taken = []
    agent.actor_optimiser.register_step_post_hook(lambda *_: taken.append(agent.iteration))
    reports = list(agent.iterations(2))
    assert taken == [0] * 6 + [1] * 6
    assert [report["env_steps"] for report in reports] == [28.0, 56.0]
    assert all(torch.isfinite(torch.tensor(value)) for value in reports[-1].values())


@pytest.mark.parametrize(
    "kwargs", [{"actor_epochs": 2}, {"actor_minibatches": 2}, {"segment_length": 2}]
)
def test_a_window_of_the_simulators_gradients_moves_the_policy_once(kwargs):
    with pytest.raises(UsageError, match="actor_epochs"):
        SHAC(Reach(), config(**kwargs))
