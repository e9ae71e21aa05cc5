"""Distances of policies by hand, and the diversity of policies that are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys.reach import Reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor, build_actor
from diffsurrogate.actor_critic.diversity import policy_diversity, visited
from diffsurrogate.algorithms.ppo import IPPO, PPOConfig
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.distances import (
    choices_diversity,
    gaussian_jensen_shannon_distance,
    jensen_shannon_distance,
    wasserstein_distance,
)
from diffsurrogate.nets.config import NET_CONFIGS, HyperLinearConfig, SeparateNetConfig

ENVS, AGENTS, OBS = 7, 3, 5


def test_jensen_shannon_by_hand():
    """Nothing in common: 1. Half in common, (1, 0) and (1/2, 1/2): the middle (3/4, 1/4) has
    2 - 3/4 log2 3 = .8113 bits, the two have 0 and 1, and .8113 - .5 = .3113. Alike: 0."""
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.3, 0.7]])
    q = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.3, 0.7]])
    expected = [1.0, math.sqrt(1.5 - 0.75 * math.log2(3)), 0.0]
    assert jensen_shannon_distance(p, q).tolist() == pytest.approx(expected, abs=1e-7)
    assert jensen_shannon_distance(q, p).tolist() == pytest.approx(expected, abs=1e-7)


def test_wasserstein_by_hand():
    """Means (0, 0) and (3, 4) are 5 apart; deviations 1, 1 and 13, 1 add 12: 13."""
    mean, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    std, wide = torch.ones(1, 2), torch.tensor([[13.0, 1.0]])
    assert wasserstein_distance(mean, std, other, std).tolist() == [5]
    assert wasserstein_distance(mean, std, other, wide).tolist() == [13]


@pytest.mark.parametrize("distance", ["jensen-shannon", "wasserstein"])
def test_features_that_an_agent_does_not_have_do_not_tell_it_from_others(distance):
    acts = torch.tensor([[True, False], [True, True], [True, True]])
    box = torch.ones(AGENTS, 2)
    policy = Actor(
        ActorConfig(net=SeparateNetConfig(hidden=(8,))), AGENTS, OBS, -box, box, valid=acts
    )
    for weights in policy.net.parameters():
        weights.data.zero_()
    bias = next(p for p in policy.net.parameters() if p.shape == (AGENTS, 2))
    for feature, differs in ((1, False), (0, True)):
        bias.data[0, feature] = 3.0
        found = policy_diversity(policy, torch.zeros(1, AGENTS, OBS), distance=distance)
        assert (found > 0.1) == differs


def test_jensen_shannon_of_gaussians_is_that_of_their_densities():
    """Of one action, by sums over a fine grid; 1 where they have nothing in common."""
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))

    def density(mean: float, std: float) -> torch.Tensor:
        found = torch.distributions.Normal(mean, std).log_prob(grid).exp()
        return (found / found.sum()).float()

    for mean, std in ((1.0, 1.0), (0.0, 3.0), (2.0, 0.5), (20.0, 1.0), (0.0, 1.0)):
        expected = jensen_shannon_distance(density(0, 1), density(mean, std)).item()
        one, other = (torch.zeros(1), torch.ones(1)), (torch.tensor([mean]), torch.tensor([std]))
        both = [
            gaussian_jensen_shannon_distance(*one, *other, noise).item(),
            gaussian_jensen_shannon_distance(*other, *one, noise).item(),
        ]
        assert both == pytest.approx([expected, expected], abs=0.01)


def test_diversity_is_the_mean_over_pairs_and_observations():
    """Three agents, two of them alike: pairs 0, 1 and 1 on the first of two observations, 0 on the
    second: 2 of 6."""
    one, other = [1.0, 0.0], [0.0, 1.0]
    chances = torch.tensor([[one, one, other], [one, one, one]])
    assert choices_diversity(chances).item() == pytest.approx(2 / 6)


def actor(architecture: str, discrete: bool = False, **net: object) -> Actor:
    torch.manual_seed(0)
    config = ActorConfig(net=NET_CONFIGS[architecture](hidden=(8,), **net), head_gain=1.0)
    low, high = -torch.ones(AGENTS, 2), torch.ones(AGENTS, 2)
    return Actor(config, AGENTS, OBS, low, high, discrete=discrete)


def set_answers(policy: Actor, answers: list[list[float]]) -> None:
    """Let every agent answer the same to everything."""
    with torch.no_grad():
        policy.net.head.weight.zero_()
        policy.net.head.bias.copy_(torch.tensor(answers))


def test_a_policy_of_constants_has_the_distance_of_constants():
    policy = actor("separate")
    set_answers(policy, [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    obs = torch.randn(11, ENVS, AGENTS, OBS)
    assert policy_diversity(policy, obs) == pytest.approx(10 / 3)


def test_policies_in_boxes_have_a_jensen_shannon_distance_too():
    """Agents 0 and 2 are alike; agent 1 is 50 deviations away: two pairs of three at 1."""
    policy = actor("separate")
    set_answers(policy, [[0.0, 0.0], [30.0, 40.0], [0.0, 0.0]])
    obs = torch.randn(11, ENVS, AGENTS, OBS)
    value = policy_diversity(policy, obs, distance="jensen-shannon")
    assert value == pytest.approx(2 / 3)
    assert policy_diversity(policy, obs, distance="wasserstein") == policy_diversity(policy, obs)
    with pytest.raises(UsageError, match="use jensen-shannon"):
        policy_diversity(actor("separate", discrete=True), obs, distance="wasserstein")


def test_a_deterministic_discrete_policy_has_the_share_of_differing_pairs_as_diversity():
    policy = actor("separate", discrete=True)
    set_answers(policy, [[100.0, 0.0], [0.0, 100.0], [0.0, 100.0]])
    assert policy_diversity(policy, torch.randn(ENVS, AGENTS, OBS)) == pytest.approx(2 / 3)


def test_every_agents_policy_is_evaluated_on_all_observations():
    """Shared weights answer alike whatever each agent saw; telling them its number changes that."""
    obs = torch.randn(ENVS, AGENTS, OBS)
    shared = actor("shared", pool_others=False)
    assert policy_diversity(shared, obs) < 1e-6
    assert (shared(obs)[:, 0] - shared(obs)[:, 1]).abs().max() > 0.1
    numbered = actor("shared", pool_others=False, agent_id=True)
    assert policy_diversity(numbered, obs) > 0.01


def test_many_observations_are_taken_in_parts(monkeypatch):
    policy, obs = actor("hyper-mlp"), torch.randn(ENVS, AGENTS, OBS)
    whole = policy_diversity(policy, obs)
    monkeypatch.setattr(
        "diffsurrogate.actor_critic.diversity._CHUNK", 4 * AGENTS * AGENTS * 2
    )  # 4 of 21
    assert policy_diversity(policy, obs) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("joint", {}), ("transformer", {}), ("shared", {}), ("hyper-mlp", {"centralised": True})],
)
def test_agents_that_see_each_other_have_no_diversity(architecture, options):
    with pytest.raises(UsageError, match="see the others' features"):
        policy_diversity(actor(architecture, **options), torch.randn(ENVS, AGENTS, OBS))


def test_agents_that_see_what_others_did_have_no_diversity():
    env = make("games/specialisation", num_envs=ENVS, n_agents=AGENTS)
    net = SeparateNetConfig(hidden=(8,))
    policy = build_actor(ActorConfig(net=net, order="listed"), env)
    with pytest.raises(UsageError, match="see earlier agents' actions"):
        policy_diversity(policy, env.reset(seed=0)[0])
    alone = build_actor(ActorConfig(net=net, order="listed", conditioning="none"), env)
    assert policy_diversity(alone, env.reset(seed=0)[0]) > 0


def test_deviations_that_agents_learn_by_themselves_count():
    """Means alike, deviations (1, 1), (4, 5) and (1, 1): distances 5, 0 and 5."""
    torch.manual_seed(0)
    net = SeparateNetConfig(hidden=(8,))
    config = ActorConfig(
        net=net, order="listed", conditioning="none", learn_std=True, head_gain=0.0
    )
    low, high = -torch.ones(AGENTS, 2), torch.ones(AGENTS, 2)
    policy = AutoregressiveActor(config, AGENTS, OBS, low, high)
    obs = torch.randn(11, ENVS, AGENTS, OBS)
    assert policy_diversity(policy, obs) == 0.0
    with torch.no_grad():
        policy.own_log_std[1].copy_(torch.tensor([[4.0, 5.0]]).log())
    assert policy_diversity(policy, obs) == pytest.approx(10 / 3)


def test_one_agent_or_no_observation_is_refused():
    policy = actor("separate")
    for shape in ((ENVS, 1, OBS), (0, AGENTS, OBS)):
        with pytest.raises(UsageError, match="at least 2 agents"):
            policy_diversity(policy, torch.randn(*shape))


class Mortal(Reach):
    """Agents left of 0 are dead."""

    @property
    def alive_mask(self) -> Tensor:
        return self.current_obs[..., 0] > 0


def test_what_dead_agents_see_does_not_count():
    policy = actor("separate")
    obs = visited(lambda obs: torch.zeros(ENVS, AGENTS, 2), Mortal(), steps=2)
    dead = obs.isnan().all(-1)
    assert dead.any()
    assert (obs[~dead][:, 0] > 0).all()
    living = obs[~dead].unsqueeze(1).expand(-1, AGENTS, -1)
    assert policy_diversity(policy, obs) == pytest.approx(policy_diversity(policy, living))
    assert policy_diversity(policy, obs) != pytest.approx(
        policy_diversity(policy, obs.nan_to_num())
    )
    with pytest.raises(UsageError, match="0 observations of it not NaN"):
        policy_diversity(policy, obs * torch.nan)


def test_a_trained_policy_is_measured_where_it_goes():
    env = make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS)
    net = HyperLinearConfig(hidden=(8,))
    agent = IPPO(env, replace(PPOConfig.ippo(), horizon=4, actor=ActorConfig(net=net)))
    agent.learn(total_steps=2 * 4 * ENVS)
    obs = visited(agent.predict, env, steps=11, seed=3)
    assert obs.shape == (11, ENVS, AGENTS, env.obs_dim)
    assert not torch.equal(obs[0], obs[10])
    assert torch.equal(obs, visited(agent.predict, env, steps=11, seed=3))
    assert policy_diversity(agent.predictor, obs) > 0
    with pytest.raises(UsageError, match="steps is 0"):
        visited(agent.predict, env, steps=0)
