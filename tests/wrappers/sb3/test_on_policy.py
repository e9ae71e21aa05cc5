"""Stable-Baselines3's PPO in our run loop: its numbers, and what is its own among our settings."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO as TheirPPO
from torch import Tensor
from toys.reach import AGENTS, ENVS, Reach
from toys.trainers import plain_reach, stable_baselines

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.sb3.config import SB3Config
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy
from diffsurrogate.wrappers.sb3.on_policy import SB3PPO


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=5)


@pytest.mark.parametrize("joint", [False, True])
def test_it_learns_what_stable_baselines_learns(joint):
    """From the same weights and random streams, by its own `learn` on the same episodes."""
    config = stable_baselines(joint=joint, normalise=False, randomise_episode_phase=False)
    agent = SB3PPO(dispersion(), config, seed=5)
    vec = SB3VecEnv(dispersion(), joint=joint)
    slots = ENVS * (1 if joint else AGENTS)
    model = TheirPPO(
        "MlpPolicy",
        vec,
        learning_rate=1e-3,
        n_steps=4,
        batch_size=4 * slots,  # the whole rollout
        n_epochs=1,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )
    model.policy.load_state_dict(agent.model.policy.state_dict())
    with agent._random.in_force():
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    agent.model.n_epochs, agent.model.batch_size = 1, 4 * slots
    agent.learn(3 * 28)
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    vec.seed(5)
    model.learn(3 * 4 * slots)
    ours, theirs = agent.model.policy.state_dict(), model.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    obs, _ = dispersion().reset(seed=1)
    assert torch.equal(agent.predict(obs), as_policy(model, dispersion())(obs))


class Rich(Reach):
    """Agents earn 1, 2 and 3."""

    def reward(self, *args: Any) -> Tensor:
        return torch.tensor([1.0, 2.0, 3.0]).expand(self.num_envs, AGENTS)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_reward_reported_is_the_envs_not_what_was_normalised(joint, normalise):
    config = stable_baselines(joint=joint, normalise=normalise)
    reports = list(SB3PPO(Rich(differentiable=False), config).iterations(3))
    assert [report["reward"] for report in reports] == [pytest.approx(2.0)] * 3
    assert {"clipped_loss", "kl", "clipped_share"} <= reports[-1].keys()


def test_the_learning_rate_falls_if_asked():
    agent = SB3PPO(plain_reach(), stable_baselines(lr_schedule="linear", lr=0.1))
    optimizer = agent.model.policy.optimizer
    rates = [optimizer.param_groups[0]["lr"] for _ in agent.iterations(4)]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_the_first_deviation_is_the_one_asked_for():
    """Of normalised actions: Pendulum's torque is in [-2, 2]."""
    pendulum = make("gymnasium/Pendulum-v1", num_envs=2)
    for std, expected in ((0.3, 0.6), (None, 1.0)):
        agent = SB3PPO(pendulum, stable_baselines(std=std, joint=True))
        deviation = agent.model.policy.log_std.exp()
        torch.testing.assert_close(deviation, torch.tensor([expected]))


def test_points_learn_to_go_home():
    """Standing still costs 5.3 in 8 steps, going straight home 0.08; per agent."""
    config = SB3Config(horizon=8, batch_size=366, epochs=8, gamma=0.9, joint=False, lr=3e-3)
    agent = SB3PPO(plain_reach(num_envs=61), config, seed=1)
    before = evaluate(agent.predict, plain_reach(num_envs=101)).mean_return / AGENTS
    agent.learn(8 * 61 * 8)
    after = evaluate(agent.predict, plain_reach(num_envs=101)).mean_return / AGENTS
    assert before < -3
    assert after > -1.5
