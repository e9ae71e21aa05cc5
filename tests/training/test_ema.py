"""Predictions can be made with a running mean of the policy's weights."""

import pytest
import torch
from torch import Tensor
from toys.reach import AGENTS, OBS, Reach

from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.errors import UsageError


def make(kind: type, ema_decay: float) -> SHAC | PPO:
    if kind is SHAC:
        value = ValueLearningConfig(minibatches=1)
        config = SHACConfig(horizon=4, value=value, ema_decay=ema_decay)
        return SHAC(Reach(), config, seed=3)
    clip = ClipConfig(epochs=1, batch_size=7)
    return PPO(Reach(), PPOConfig(horizon=4, clip=clip, ema_decay=ema_decay), seed=3)


def head(actor: torch.nn.Module) -> Tensor:
    return actor.net.head.weight.detach().clone()


@pytest.mark.parametrize("kind", [SHAC, PPO])
def test_the_mean_starts_at_the_first_update_and_soon_forgets_by_its_decay(kind):
    """Of itself it keeps 2/11, 3/12 and then .3, for 4/13 would be more."""
    agent, seen = make(kind, ema_decay=0.3), []
    for _ in agent.iterations(4):
        seen.append(head(agent.actor))
    first, *later = seen
    expected = first
    for kept, weight in zip((2 / 11, 3 / 12, 0.3), later, strict=True):
        expected = kept * expected + (1 - kept) * weight
    torch.testing.assert_close(head(agent.predictor), expected)
    assert not torch.equal(first, seen[-1])


@pytest.mark.parametrize("kind", [SHAC, PPO])
def test_predictions_are_made_with_the_mean_and_exploration_is_not(kind):
    agent = make(kind, ema_decay=0.9)
    list(agent.iterations(3))
    obs = torch.randn(11, AGENTS, OBS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, now = agent.predictor.act(obs, None), agent.actor.act(obs, None)
    torch.testing.assert_close(agent.predict(obs), mean.clamp(-1, 1))
    assert not torch.allclose(mean, now)


@pytest.mark.parametrize("kind", [SHAC, PPO])
def test_without_a_mean_the_policy_itself_predicts(kind):
    agent = make(kind, ema_decay=0.0)
    list(agent.iterations(2))
    assert agent.predictor is agent.actor


@pytest.mark.parametrize("ema_decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_of_0_to_1_is_refused(ema_decay):
    with pytest.raises(UsageError, match="ema_decay is"):
        SHACConfig(ema_decay=ema_decay)
    with pytest.raises(UsageError, match="ema_decay is"):
        PPOConfig(ema_decay=ema_decay)
