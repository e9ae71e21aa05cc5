"""Rare rewards: which are ordinary, what the reward model makes of the others, and its trust."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffsurrogate.data.replay import StratifiedReplay
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.window import Window
from diffsurrogate.nets.config import SharedNetConfig
from diffsurrogate.nets.normaliser import OrdinaryRange
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.fitting import Surrogates
from diffsurrogate.surrogates.heads import RewardConfig, RewardTrust

TIME, ENVS, AGENTS = 31, 61, 2


def holds(values: Tensor, judged: list[float]) -> list[bool]:
    ordinary = OrdinaryRange(1)
    ordinary.update(values.unsqueeze(-1))
    return ordinary.holds(torch.tensor(judged).unsqueeze(-1)).squeeze(-1).tolist()


def test_ordinary_values_lie_within_three_spreads_of_the_outer_quantiles():
    """Of 0 to 100 the spread is 80: from 10 - 240 to 90 + 240."""
    values = torch.arange(101.0)
    assert holds(values, [-229.0, -231.0, 329.0, 331.0]) == [True, False, True, False]
    values[50] = -10_000.0  # one outlier changes nothing
    assert holds(values, [-229.0, -10_000.0]) == [True, False]


def test_where_most_values_are_equal_all_are_ordinary():
    values = torch.zeros(1000)
    values[:50] = 1.0
    assert holds(values, [0.0, 1.0, 99.0]) == [True] * 3


def window(seed: int, size: float = 1.0, events: float = 0.0, outlier: bool = False) -> Window:
    """Rewards are smooth in obs and action; where both observed entries are high, an event."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.rand(TIME, ENVS, AGENTS, 2, generator=generator) * 2 - 1
    action = torch.rand(TIME, ENVS, AGENTS, 1, generator=generator) * 2 - 1
    reward = (2 * obs).sin().sum(-1) - (action[..., 0] - obs[..., 0]).square()
    reward = size * torch.where((obs > 1 - events**0.5 * 2).all(-1), -100.0, reward)
    if outlier:
        reward[0, 0, 0] = -10_000.0
    over = torch.zeros(TIME, ENVS, dtype=torch.bool)
    return Window(
        obs=obs, action=action, reward=reward, next_obs=obs, terminated=over, truncated=over
    )


def fitted(**kwargs: float) -> tuple[Surrogates, dict[str, float]]:
    bounds = torch.ones(AGENTS, 1)
    net = SharedNetConfig(hidden=(32, 32), activation="silu")
    fit = FitConfig(minibatches=25, batch_size=256)
    config = SurrogateConfig(reward=RewardConfig(net=net), fit=fit)
    space = ActionSpace(-bounds, bounds, discrete=False)
    models = Surrogates(config, obs_dim=2, action_space=space, dynamics=False)
    report: dict[str, float] = {}
    for seed in range(13):
        outlier = {"outlier": seed == 7 and "outlier" in kwargs}
        report = models.fit(window(seed, **(kwargs | outlier)))
    return models, report


@pytest.mark.parametrize(
    "rewards", [{}, {"outlier": 1.0}, {"events": 0.004}, {"events": 0.05}, {"size": 1e-4}], ids=str
)
def test_ordinary_rewards_are_learned_whatever_rare_ones_do(rewards):
    models, report = fitted(**rewards)
    assert report["reward_error"] < 0.05
    assert ("event_rate" in report) == ("events" in rewards)
    test = window(100, **(rewards | {"outlier": False}))
    with torch.no_grad():
        predicted = models.predict_reward(test.obs, test.action, test.next_obs)
    ordinary = test.reward > -50
    assert float((predicted - test.reward)[ordinary].abs().median()) < 0.2 * rewards.get("size", 1)
    if "events" in rewards:
        inside = (test.obs > 1 - rewards["events"] ** 0.5).all(-1)  # well within the corner
        assert float(predicted[inside].median()) < -50


def test_outliers_have_bins_of_their_own():
    """They rule neither the range of the bins nor a large share of the minibatches."""
    cache = StratifiedReplay(100, 4)
    key = torch.cat([torch.linspace(0, 4, 50), torch.tensor([-1000.0])])
    cache.add(key, {"key": key}, within=(-9.0, 9.0))
    assert [len(ring) for ring in cache.rings] == [13, 12, 12, 13]
    assert [len(ring) for ring in cache.tails] == [1, 0]
    other = StratifiedReplay(100, 4)
    other.load_state_dict(cache.state_dict())
    drawn = [c.sample(999, torch.Generator().manual_seed(0), 0.5)["key"] for c in (cache, other)]
    assert torch.equal(*drawn)
    assert 0.05 < float((drawn[0] < 0).float().mean()) < 0.2
    cache.add(torch.tensor([7.0]), {"key": torch.tensor([7.0])}, within=(-9.0, 5.0))
    assert [len(ring) for ring in cache.tails] == [1, 1]


def test_trust_falls_while_rewards_cannot_be_predicted_and_is_told_of_once():
    models, _ = fitted()
    assert models.trust.value > 0.9
    models.config = replace(models.config, fit=FitConfig(minibatches=1, batch_size=16))
    noise = torch.Generator().manual_seed(0)
    with pytest.warns(UserWarning, match="says little of rewards") as told:
        for seed in range(200, 320):
            data = window(seed).each(lambda values: values[:5])
            reward = 5 * torch.randn(data.reward.shape, generator=noise)
            report = models.fit(replace(data, reward=reward))
    assert report["model_trust"] == models.trust.value < 0.3
    assert len(told) == 1
    before = models.trust.value
    models.trust.update(torch.full((3,), math.nan), torch.zeros(3))
    assert models.trust.value == pytest.approx(0.9 * before)


@pytest.mark.parametrize(
    ("predicted", "trust"),
    [([0.0, 9.0, 0.0, 9.0], 1.0), ([9.0, 0.0, 9.0, 0.0], 0.0), ([0.0, 0.0, 9.0, 9.0], 0.0)],
    ids=["exaggerated", "the wrong way", "at random"],
)
def test_trust_is_of_the_direction_not_of_the_size(predicted, trust):
    found = RewardTrust()
    found.update(torch.tensor(predicted), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert found.value == pytest.approx(trust)


def test_trust_does_not_depend_on_an_offset_of_rewards():
    noise = torch.Generator().manual_seed(0)
    predicted, reward = 3e4 + torch.randn(2, 2048, generator=noise)
    found = RewardTrust()
    found.update(predicted, reward)
    assert found.value == 0.0  # of a correlation of .02; .49 in float32
