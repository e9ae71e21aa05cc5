"""Predictions can be made with a running mean of the policy's weights."""

import pickle

import pytest
import torch
from torch import Tensor
from toys.reach import AGENTS, OBS
from toys.trainers import TRAINERS

from diffsurrogate.envs.registry import make

BOTH = pytest.mark.parametrize("case", [TRAINERS["shac"], TRAINERS["ppo"]], ids=["shac", "ppo"])


def head(actor: torch.nn.Module) -> Tensor:
    return actor.net.head.weight.detach().clone()


@BOTH
def test_the_mean_starts_at_the_first_update_and_soon_forgets_by_its_decay(case):
    """Of itself it keeps 2/11, 3/12 and then .3, for 4/13 would be more."""
    agent, seen = case.make(ema_decay=0.3), []
    for _ in agent.iterations(4):
        seen.append(head(agent.actor))
    first, *later = seen
    expected = first
    for kept, weight in zip((2 / 11, 3 / 12, 0.3), later, strict=True):
        expected = kept * expected + (1 - kept) * weight
    torch.testing.assert_close(head(agent.predictor), expected)
    assert not torch.equal(first, seen[-1])


@BOTH
def test_predictions_are_made_with_the_mean_and_exploration_is_not(case):
    agent = case.make(ema_decay=0.9)
    list(agent.iterations(3))
    obs = torch.randn(11, AGENTS, OBS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, now = agent.predictor.act(obs, None), agent.actor.act(obs, None)
    torch.testing.assert_close(agent.predict(obs), mean.clamp(-1, 1))
    assert not torch.allclose(mean, now)
    plain = case.make(ema_decay=0.0)
    assert plain.learn(1).predictor is plain.actor


@BOTH
def test_a_pickled_trainer_goes_on_as_the_original(case):
    agent = case.make(ema_decay=0.9)
    list(agent.iterations(2))
    copy = pickle.loads(pickle.dumps(agent))
    for one in (agent, copy):
        list(one.iterations(4))
    assert torch.equal(head(copy.predictor), head(agent.predictor))


def test_copies_put_together_by_the_adapter_can_be_pickled():
    env = make("gymnasium/Pendulum-v1", num_envs=2)
    env.reset(seed=0)
    action = torch.ones(2, 1, 1)
    copy = pickle.loads(pickle.dumps(env))
    assert torch.equal(copy.step(action)[0], env.step(action)[0])
