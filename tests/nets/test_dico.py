"""Controlled diversity: as far apart as told, whatever the agents' own parts become."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys.reach import Reach, config
from toys.trainers import clipped, plain_reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.diversity import policy_diversity, visited
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.algorithms.ppo import IPPO
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.distances import gaussian_diversity
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import DiCoConfig
from diffsurrogate.training.trainer import Trainer

ENVS, AGENTS, OBS, OUT = 7, 3, 5, 2
DICO = DiCoConfig(hidden=(12,), diversity=0.4)


def built(diversity: float | None):
    torch.manual_seed(0)
    config = DiCoConfig(hidden=(12,), diversity=diversity)
    return build_net(config, AGENTS, OBS, OUT, head_gain=0.5)


def spread(net, x) -> float:
    """The diversity where every agent sees what any of them saw."""
    seen = x.reshape(-1, 1, OBS).expand(-1, AGENTS, -1)
    with torch.no_grad():
        mean = net(seen)
    return float(gaussian_diversity(mean, torch.ones_like(mean)))


@pytest.mark.parametrize("diversity", [0.3, 1.2])
def test_agents_are_as_far_apart_as_told(diversity):
    """At first where observations are unit normal; once measured on others, there."""
    net = built(diversity)
    x = torch.randn(1000, AGENTS, OBS)
    assert spread(net, x) == pytest.approx(diversity, rel=0.1)
    with torch.no_grad():
        net.own.head.weight.mul_(20)  # they drift apart
    assert spread(net, x) > 10 * diversity
    net.measure(3 * x[:ENVS] + 2)
    assert spread(net, 3 * x[:ENVS] + 2) == pytest.approx(diversity)


def test_many_observations_are_measured_by_a_sample_of_all_agents():
    """Agents see what is 1, 10 and 100 in size: a third of the sample is of each."""
    net, size = built(1.2), torch.tensor([1.0, 10.0, 100.0]).unsqueeze(-1)
    x = size * torch.randn(4096, AGENTS, OBS)
    net.measure(x)
    assert spread(net, x) == pytest.approx(1.2, rel=0.02)


def test_a_diversity_of_0_is_one_policy_and_none_is_free():
    x = torch.randn(ENVS, AGENTS, OBS)
    net = built(0.0)
    torch.testing.assert_close(net(x), net.shared(x))
    free = built(None)
    torch.testing.assert_close(free(x), free.shared(x) + free.own(x))


def test_only_a_measurement_moves_the_policy():
    net, x = built(1.2), torch.randn(ENVS, AGENTS, OBS)
    before = net(x)
    for _ in range(20):
        net(100 * x).sum().backward()
    assert torch.equal(net(x), before)
    net.measure(100 * x)
    assert not torch.equal(net(x), before)


def actor() -> Actor:
    torch.manual_seed(0)
    own = ActorConfig(net=DICO, head_gain=0.5)
    return Actor(own, AGENTS, OBS, -torch.ones(AGENTS, OUT), torch.ones(AGENTS, OUT))


def acted() -> tuple[Tensor, Tensor]:
    """Observations that are far from those it was first measured on, and actions."""
    return 3 * torch.randn(11, ENVS, AGENTS, OBS) + 2, torch.randn(11, ENVS, AGENTS, OUT)


def test_the_next_windows_inputs_are_what_it_is_measured_on():
    """By the statistics that count from then on; the next window's beginning moves nothing."""
    policy, (obs, _) = actor(), acted()
    assert policy_diversity(policy, obs) > 1.1 * DICO.diversity
    policy.update_normaliser(obs)
    assert policy_diversity(policy, obs) == pytest.approx(DICO.diversity)
    after = policy(obs)
    policy.freeze_normaliser(torch.Generator())
    assert torch.equal(policy(obs), after)


def ippo(lr: float) -> IPPO:
    own = replace(IPPO.default_config().actor, net=DICO)
    return IPPO(plain_reach(), clipped(IPPO, {"lr": lr}, actor=own))


def shac(lr: float) -> SHAC:
    update = GradientUpdateConfig(lr=lr)
    return SHAC(Reach(), config(actor=ActorConfig(net=DICO, std=0.3), update=update))


def test_steps_of_length_0_leave_the_ratio_at_1():
    for metrics in ippo(lr=0.0).iterations(4):
        assert metrics["kl"] == pytest.approx(0.0, abs=1e-7)
        assert metrics["clipped_share"] == 0.0


@pytest.mark.parametrize("make_agent", [ippo, shac])
def test_agents_that_learned_are_as_far_apart_as_told(make_agent):
    """Where they go: their own parts grew by much, and what they see is normalised by now."""
    agent: Trainer = make_agent(lr=1e-2)
    at_first = agent.actor.net.measured.clone()
    agent.learn(40 * 28)
    assert float(agent.actor.net.measured / at_first) > 2
    obs = visited(lambda obs: agent.predict(obs, deterministic=False), agent.env, steps=8)
    assert policy_diversity(agent.actor, obs) == pytest.approx(DICO.diversity, rel=0.2)


def test_features_that_only_some_agents_have_do_not_count():
    env = Reach()
    env.valid_action_dims[0, 1] = False
    actor = Actor.of(ActorConfig(net=DICO), env)
    obs = torch.randn(1000, AGENTS, OBS)
    actor.update_normaliser(obs)
    assert policy_diversity(actor, obs) == pytest.approx(0.4, rel=0.05)


def test_what_has_no_diversity_is_refused():
    config = DiCoConfig()
    with pytest.raises(UsageError, match="values and models"):
        build_net(config, AGENTS, OBS, OUT, head_gain=0.0)
    with pytest.raises(UsageError, match="there is 1"):
        build_net(config, 1, OBS, OUT)
    box = torch.zeros(AGENTS, OUT), torch.ones(AGENTS, OUT)
    with pytest.raises(UsageError, match=r"actions here are discrete; use hyper-mlp.*agent_id"):
        Actor(ActorConfig(net=config), AGENTS, OBS, *box, discrete=True)
    with pytest.raises(UsageError, match="diversity"):
        DiCoConfig(diversity=-1.0)


def test_what_dead_agents_see_does_not_count():
    actor = Actor.of(ActorConfig(net=DICO, normalise_obs=False), Reach())
    obs = torch.randn(1000, AGENTS, OBS)
    alive_mask = torch.arange(1000).unsqueeze(1) < torch.tensor([100, 200, 50])
    obs = torch.where(alive_mask.unsqueeze(-1), obs, 0.0)
    actor.update_normaliser(obs, alive_mask)
    seen = obs[alive_mask].unsqueeze(1).expand(-1, AGENTS, -1)
    assert policy_diversity(actor, seen) == pytest.approx(0.4)
