"""The expectile of values, which comes down as losses stop to cancel gains."""

import pytest
import torch

from diffsurrogate import (
    ClipConfig,
    HybridUpdateConfig,
    LearnedDiffWrapper,
    NoiseConfig,
    ValueLearningConfig,
    make,
)
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import DECAY, ENOUGH, RewardSignBalance
from diffsurrogate.errors import UsageError


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
    with pytest.raises(UsageError, match=r"expectile_one_signed is 1\.0"):
        ValueLearningConfig(expectile_one_signed=1.0)


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
