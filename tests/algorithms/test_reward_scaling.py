"""The running deviation of discounted returns, by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor
from toys.by_hand import AGENTS, ENVS, flags, rows
from toys.reach import HORIZON, Reach, config, weights

from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.policy_updates import (
    GradientUpdateConfig,
    HybridUpdateConfig,
    PathwiseConfig,
)
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.algorithms.value_learning import ReturnScale


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
