"""Agents that act one after another: who sees whom, densities, gradients, orders."""

import itertools
from typing import Any

import pytest
import torch
from toys.by_hand import draw
from toys.reach import Reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor, build_actor
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SeparateNetConfig

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 11
LOW = torch.tensor([-1.0, 2.0]).expand(AGENTS, ACT)
HIGH = torch.tensor([3.0, 2.5]).expand(AGENTS, ACT)
NET = SeparateNetConfig(hidden=(8,))
ORDERS = {
    "listed": ({"order": "listed"}, [0, 1, 2]),
    "reversed": ({"order": "reversed"}, [2, 1, 0]),
    "random": ({"order": "random", "agent_order": [1, 2, 0]}, [1, 2, 0]),
}
every_order = pytest.mark.parametrize(("kwargs", "agent_order"), ORDERS.values(), ids=ORDERS)
seeing = pytest.mark.parametrize("conditioning", ["projection", "raw"])


def actor(
    discrete: bool = False, agent_order: list[int] | None = None, **kwargs: Any
) -> AutoregressiveActor:
    torch.manual_seed(0)
    config = ActorConfig(**({"net": NET, "head_gain": 1.0, "order": "listed"} | kwargs))
    box = (torch.zeros(AGENTS, ACT), torch.ones(AGENTS, ACT)) if discrete else (LOW, HIGH)
    policy = AutoregressiveActor(config, AGENTS, OBS, *box, discrete=discrete)
    if agent_order is not None:  # as if drawn
        policy.agent_order = torch.tensor(agent_order)
    return policy


@seeing
@every_order
def test_an_action_depends_on_those_before_it_only(kwargs, agent_order, conditioning):
    policy = actor(conditioning=conditioning, **kwargs)
    assert policy.agent_order.tolist() == agent_order
    obs, noise = draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, ACT, seed=2)
    before = policy.act(obs, noise)
    for place, agent in enumerate(agent_order):
        other = noise.clone()
        other[:, agent] += 1.0
        moved = (policy.act(obs, other) != before).any(-1).any(0)
        assert moved.nonzero().flatten().tolist() == sorted(agent_order[place:])
        obs_other = obs.clone()
        obs_other[:, agent] += 1.0
        moved = (policy.act(obs_other, noise) != before).any(-1).any(0)
        assert moved.nonzero().flatten().tolist() == sorted(agent_order[place:])


def test_without_conditioning_agents_are_independent():
    policy = actor(conditioning="none")
    obs, noise = draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, ACT, seed=2)
    other = noise.clone()
    other[:, 0] += 1.0
    moved = (policy.act(obs, other) != policy.act(obs, noise)).any(-1).any(0)
    assert moved.tolist() == [True, False, False]


@every_order
@pytest.mark.parametrize("learn_std", [False, True])
@pytest.mark.parametrize("kind", ["white", "ou"])
def test_the_density_of_what_was_drawn_is_that_of_its_noise(kwargs, agent_order, learn_std, kind):
    """One batch over time and env says the same as acting step by step did."""
    policy = actor(learn_std=learn_std, std=0.5, **kwargs)
    if learn_std:
        with torch.no_grad():
            for number, own in enumerate(policy.own_log_std):
                own.fill_(0.3 * number)
    process = NoiseProcess(NoiseConfig(kind=kind), (ENVS, AGENTS, ACT), torch.Generator())
    noise, memory = process.draw_with_state(HORIZON)
    obs = draw(HORIZON, ENVS, AGENTS, OBS)
    action = torch.stack([policy.act(obs[t], noise[t]) for t in range(HORIZON)])
    known, left = (0.0, 1.0) if memory is None else (memory.carried, memory.fresh)
    own = 0.3 * torch.arange(3.0) if learn_std else torch.zeros(3)
    log_std = torch.tensor(0.5).log() + own
    want = torch.distributions.Normal(known, left).log_prob(noise).sum(-1) - 2 * log_std
    torch.testing.assert_close(policy.log_prob(obs, action, memory), want, atol=1e-3, rtol=1e-4)
    entropy = policy.entropy(obs, action)
    half = 0.5 + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(entropy, 2 * (log_std + half).expand_as(entropy))


@seeing
@every_order
def test_probabilities_of_all_joint_actions_sum_to_1(kwargs, agent_order, conditioning):
    policy = actor(discrete=True, conditioning=conditioning, **kwargs)
    obs = draw(1, AGENTS, OBS).expand(2**AGENTS, AGENTS, OBS)
    joint = torch.tensor(list(itertools.product(range(ACT), repeat=AGENTS)))
    choices = torch.nn.functional.one_hot(joint, ACT).float()
    chances = policy.log_prob(obs, choices).sum(-1).exp().detach()
    assert chances.sum().item() == pytest.approx(1.0)
    drawn = policy.act(obs[:1].expand(20_000, AGENTS, OBS), draw(20_000, AGENTS, ACT))
    number = (drawn.argmax(-1) * torch.tensor([4, 2, 1])).sum(-1)
    share = torch.bincount(number, minlength=8) / 20_000
    torch.testing.assert_close(share, chances, atol=0.015, rtol=0.0)
    entropy = policy.entropy(obs, choices).detach()  # of the joint choice: the mean of the sums
    assert (chances * entropy.sum(-1)).sum().item() == pytest.approx(
        float(-(chances * chances.log()).sum()), rel=1e-4
    )


@pytest.mark.parametrize("discrete", [False, True])
def test_a_gradient_goes_through_earlier_actions(discrete):
    """What SHAC needs: the last agent's action moves with the first one's weights."""
    policy = actor(discrete=discrete, learn_std=True)
    policy.act(draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, ACT))[:, 2, 0].sum().backward()
    for number in range(AGENTS):
        assert policy.net[number].head.weight.grad.abs().sum() > 0


def test_the_most_probable_chain_is_what_it_does_without_noise():
    policy, obs = actor(), draw(ENVS, AGENTS, OBS)
    zero = torch.zeros(ENVS, AGENTS, ACT)
    assert torch.equal(policy.act(obs, None), policy.act(obs, zero))
    torch.testing.assert_close(policy.normalise_action(policy.act(obs, None)), policy(obs))
    choosing = actor(discrete=True)
    best = choosing.act(obs, None)
    torch.testing.assert_close(choosing(obs).argmax(-1), best.argmax(-1))
    torch.testing.assert_close(choosing.entropy(obs), choosing.entropy(obs, best))


def test_a_random_order_is_drawn_for_every_window():
    policy, generator = actor(order="random"), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        policy.freeze_normaliser(generator)
        seen.add(tuple(policy.agent_order.tolist()))
    assert seen == set(itertools.permutations(range(AGENTS)))


def test_an_actor_of_the_wrong_kind_is_refused():
    with pytest.raises(UsageError, match=r"'listed' is not for Actor; .* build_actor"):
        Actor.of(ActorConfig(net=NET, order="listed"), Reach())
    with pytest.raises(UsageError, match="'simultaneous' is not for AutoregressiveActor"):
        AutoregressiveActor.of(ActorConfig(net=NET), Reach())


def test_what_is_built_depends_on_the_order():
    env = Reach()
    assert type(build_actor(ActorConfig(net=NET), env)) is Actor
    assert type(build_actor(ActorConfig(net=NET, order="listed"), env)) is AutoregressiveActor
    game = build_actor(ActorConfig(net=NET, order="listed"), make("games/climbing"))
    assert game.discrete


@seeing
def test_padded_features_say_nothing_to_later_agents(conditioning):
    policy = actor(conditioning=conditioning)
    policy.action_space.valid = torch.tensor([[True, False], [True, True], [True, True]])
    obs, noise = draw(ENVS, AGENTS, OBS), draw(ENVS, AGENTS, ACT, seed=2)
    other = noise.clone()
    other[:, 0, 1] += 1.0
    one, two = policy.act(obs, noise), policy.act(obs, other)
    assert torch.equal(one[:, 1:], two[:, 1:])
    torch.testing.assert_close(policy.log_prob(obs, one), policy.log_prob(obs, two))
