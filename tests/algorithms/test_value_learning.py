"""What values are learned with: the scale of rewards, and the expectile that comes down."""

from typing import Any

import pytest
import torch
from torch import Tensor
from toys.by_hand import AGENTS, ENVS, flags, rows
from toys.reach import ACT, HORIZON, OBS, Reach, config, weights
from toys.trainers import clipped

from diffsurrogate.actor_critic.critic import Critic, CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import (
    DECAY,
    ENOUGH,
    ReturnScale,
    RewardSignBalance,
    ValueLearningConfig,
    discount_for,
)
from diffsurrogate.envs.registry import make
from diffsurrogate.envs.window import Window
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

# --- the running deviation of discounted returns ------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "returns"),
    [
        (flags(), [1.0, 2.5, 5.25]),  # 1, 2 + ½ 1, 4 + ½ 2.5
        (flags(1), [1.0, 2.5, 4.0]),
        (flags(0, 2), [1.0, 2.0, 5.0]),
    ],
    ids=["none", "second", "first and last"],
)
def test_scale_by_hand(ended, returns):
    """Rewards 1, 2, 4 at γ = 0.5; a return restarts after an end."""
    scale = ReturnScale(ENVS, AGENTS, gamma=0.5)
    scale.update(rows(1.0, 2.0, 4.0), ended)
    expected = (sum(r**2 for r in returns) / 3) ** 0.5
    assert scale.scale.item() == pytest.approx(expected)
    assert scale.running[0, 0].item() == (0.0 if ended[2, 0] else returns[2])


def test_only_the_return_of_an_ended_env_restarts():
    scale, ended = ReturnScale(ENVS, AGENTS, gamma=0.5), flags()
    ended[2, 4] = True
    scale.update(rows(1.0, 2.0, 4.0), ended)
    assert (scale.running[:, 1] == 0).tolist() == [index == 4 for index in range(ENVS)]


@pytest.mark.parametrize("parts", [(5,), (2, 3), (1, 1, 3)])
def test_windows_hang_together(parts):
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(5, ENVS, AGENTS, generator=generator)
    ended = torch.rand(5, ENVS, generator=generator) < 0.3
    whole, pieces = (ReturnScale(ENVS, AGENTS, gamma=0.9) for _ in range(2))
    whole.update(reward, ended)
    for part, end in zip(reward.split(parts), ended.split(parts), strict=True):
        pieces.update(part, end)
    assert torch.equal(whole.running, pieces.running)
    assert pieces.scale.item() == pytest.approx(whole.scale.item())


def test_the_scale_is_1_until_a_reward_was_seen():
    scale = ReturnScale(ENVS, AGENTS, gamma=0.9)
    assert scale.scale.item() == 1.0
    scale.update(rows(0.0, 0.0, 0.0), flags())
    assert scale.scale.item() == 1.0


class Rich(Reach):
    """In pennies."""

    unit = 128.0  # a power of two, so that scaling is exact

    def reward(self, *args: Any) -> Tensor:
        return self.unit * super().reward(*args)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"update": GradientUpdateConfig(gradient=PathwiseConfig(lam=0.9))},
        {
            "noise": NoiseConfig(kind="white"),
            "update": HybridUpdateConfig(ppo=ClipConfig(epochs=1, batch_size=16)),
        },
    ],
    ids=["pathwise", "from every state", "hybrid"],
)
def test_shac_learns_the_same_whatever_the_unit_of_rewards(settings):
    def trained(env: Reach, **more: bool) -> SHAC:
        agent = SHAC(env, config(**settings, **more), seed=3)
        return agent.learn(total_steps=3 * ENVS * HORIZON)

    poor, rich = (trained(kind(), scale_rewards=True) for kind in (Reach, Rich))
    assert rich.value.scale.scale.item() == 128 * poor.value.scale.scale.item() != 0
    torch.testing.assert_close(weights(rich), weights(poor), rtol=1e-4, atol=1e-5)
    unscaled = [
        torch.cat([weight.flatten() for weight in trained(kind()).critic.net.parameters()])
        for kind in (Reach, Rich)
    ]
    assert (unscaled[0] - unscaled[1]).abs().max() > 1e-3


def test_ppo_has_targets_of_order_1_whatever_the_unit_of_rewards():
    def target(kind: type[Reach], scale_rewards: bool) -> float:
        settings = clipped(scale_rewards=scale_rewards, randomise_episode_phase=False)
        return next(PPO(kind(differentiable=False), settings, seed=1).iterations(1))["value_target"]

    poor, rich = target(Reach, True), target(Rich, True)
    assert rich == pytest.approx(poor, rel=1e-5)
    assert -3 < rich < -0.1
    assert target(Rich, False) < -50


# --- the expectile, which comes down as losses stop to cancel gains -----------------------------


def window(*rewards: float) -> torch.Tensor:
    """One number per step, of the first of two envs and the second of three agents."""
    reward = torch.zeros(len(rewards), 2, 3)
    reward[:, 0, 1] = torch.tensor(rewards)
    return reward


@pytest.mark.parametrize(
    ("rewards", "share"),
    [
        ((0.0, 0.0), 1.0),
        ((2.0, 1.0), 0.0),
        ((-2.0, -1.0), 0.0),
        ((2.0, -2.0), 1.0),
        ((3.0, -1.0), 1.0),
        ((3.0, -0.015), 0.5),
        ((-4.0, 0.01), 0.25),
    ],
)
def test_one_window_by_hand(rewards, share):
    sign_balance = RewardSignBalance()
    assert sign_balance.share == 1
    sign_balance.update(window(*rewards))
    assert sign_balance.share == pytest.approx(share)


def test_agents_of_a_team_cancel_each_other_before_windows_do():
    sign_balance = RewardSignBalance()
    sign_balance.update(torch.tensor([[[1.0, -1.0, 0.5]]]))
    assert sign_balance.share == 0  # the team earned .5


def test_older_windows_fade():
    sign_balance = RewardSignBalance()
    sign_balance.update(window(4.0, -4.0))
    for _ in range(200):
        sign_balance.update(window(1.0))
    gains = sum(DECAY**k for k in range(200)) + 4 * DECAY**200
    assert 0 < sign_balance.share < 1
    assert sign_balance.share == pytest.approx(4 * DECAY**200 / gains / ENOUGH)


def test_the_expectile_lies_between_its_ends():
    config = ValueLearningConfig(expectile=0.8, expectile_one_signed=0.6)
    assert [config.expectile_at(share) for share in (0.0, 0.25, 1.0)] == pytest.approx(
        [0.6, 0.65, 0.8]
    )
    assert ValueLearningConfig(expectile=0.8).expectile_at(0.0) == 0.8


def test_the_expectile_comes_down_where_rewards_are_of_one_sign():
    config = SHACConfig(
        noise=NoiseConfig(kind="white"),
        update=HybridUpdateConfig(ppo=ClipConfig(epochs=1)),
        value=ValueLearningConfig(expectile=0.8, expectile_one_signed=0.55),
    )
    swings = LearnedDiffWrapper(make("diffsurrogate/cartpole-swingup", num_envs=4))
    agent = SHAC(swings, config)  # which costs in every step
    reports = list(agent.iterations(2))
    assert [report["expectile"] for report in reports] == pytest.approx([0.55, 0.55], abs=1e-3)


def test_the_discount_fits_the_time_limit_unless_it_is_given():
    limits = [8, 50, 200, 500, 1000, 5000, None]
    assert [discount_for(limit) for limit in limits] == pytest.approx(
        [0.95, 0.96, 0.99, 0.995, 0.995, 0.995, 0.995]
    )
    assert SHAC(Reach()).value.gamma == 0.95  # 8 steps
    assert SHAC(Reach(), config(gamma=0.9)).value.gamma == 0.9
    assert PPO(Reach(), PPOConfig(gamma=None)).gamma == 0.95


def test_an_agent_of_small_returns_has_a_scale_of_its_own_where_agents_learn_apart():
    """Returns of 1, 2 and 100 in one step: the common scale is the root of (1 + 4 + 10,000) / 3."""
    reward = torch.tensor([1.0, 2.0, 100.0]).expand(1, ENVS, AGENTS)
    for apart in (False, True):
        scale = ReturnScale(ENVS, AGENTS, gamma=0.5, apart=apart)
        scale.update(reward, torch.zeros(1, ENVS, dtype=torch.bool))
        common = (10_005 / 3) ** 0.5
        expected = [1.0, 2.0, common] if apart else [common] * 3
        assert scale.scale.expand(AGENTS).tolist() == pytest.approx(expected)


# --- several value functions --------------------------------------------------------------------


def test_policies_follow_the_mean_of_value_functions_and_targets_the_smallest():
    critic = Critic(CriticConfig(ensemble=3, head_gain=1.0), AGENTS, 5)
    obs = torch.randn(4, AGENTS, 5)
    each = critic.each(obs)
    assert each.shape == (3, 4, AGENTS)
    assert (each[0] - each[1]).abs().min() > 1e-4
    torch.testing.assert_close(critic.target(obs), each.mean(0))
    torch.testing.assert_close(critic.low_target_after(obs, obs), each.amin(0))
    assert critic.target(obs.requires_grad_()).grad_fn is not None
    assert {p.requires_grad for p in critic.more_target_nets.parameters()} == {False}


def test_every_value_function_learns_the_targets():
    agent = SHAC(
        Reach(), config(critic=CriticConfig(ensemble=2, head_gain=1.0, target_decay=0.5)), seed=0
    )
    before = [[p.clone() for p in net.parameters()] for net in (agent.critic.more_target_nets)]
    list(agent.iterations(30))
    window = agent.env.collect(agent.predict, HORIZON)
    target = agent.value.targets(window)
    spread = (target - target.mean()).square().mean()
    for value in agent.critic.each(window.obs):
        assert (value - target).square().mean() < 0.5 * spread
    moved = [list(net.parameters()) for net in agent.critic.more_target_nets]
    assert all(not torch.equal(a, b) for a, b in zip(before[0], moved[0], strict=True))


def test_replayed_targets_are_in_the_unit_of_now():
    """At γ = 0, rewards of 1 and then of 7 have a root mean square of 1 and then of 5."""
    value = ValueLearningConfig(minibatches=1, batch_size=512, bins=1)
    learner = SHAC(
        Reach(num_envs=ENVS, agents=AGENTS), config(scale_rewards=True, gamma=0.0, value=value)
    ).value
    zeros, never = torch.zeros(HORIZON, ENVS, AGENTS, OBS), torch.zeros(HORIZON, ENVS).bool()
    for size in (1.0, 7.0):
        window = Window(
            obs=zeros,
            action=zeros[..., :ACT],
            reward=size + zeros[..., 0],
            next_obs=zeros,
            terminated=never,
            truncated=never,
        )
        ((_, target),) = learner._minibatches(window, learner.targets(window))
    torch.testing.assert_close(target.unique(), torch.tensor([1 / 5, 7 / 5]))
