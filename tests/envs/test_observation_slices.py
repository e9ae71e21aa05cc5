"""Columns with a role: closed choices are never taken, and no policy sees the global state."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys.by_hand import draw
from toys.masked import AGENTS, CHOICES, ENVS, SEEN, HiddenHalf, MaskedReach, closed_choices
from toys.reach import NET, learned
from toys.trainers import TRAINERS

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.critic import Critic, CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.envs.observation_slices import available_actions, check_columns, without
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

SEPARATE = SeparateNetConfig(hidden=(8,))
ACTORS = [
    ActorConfig(net=NET),
    ActorConfig(net=SEPARATE),
    ActorConfig(net=SEPARATE, order="reversed"),
]
IDS = ["joint", "separate", "one after another"]


def randomised(actor: Actor) -> Actor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return actor


def masked_observations(steps: int = 4) -> Tensor:
    env = MaskedReach()
    env.reset(seed=0)
    return env.collect(lambda obs: torch.rand(ENVS, AGENTS, CHOICES), steps).obs


def masked_actor() -> Actor:
    """Return one whose logits are the logarithms of 1, 2, 3 and 4, for one agent."""
    box, mask = (torch.zeros(1, CHOICES), torch.ones(1, CHOICES)), slice(0, CHOICES)
    net = ActorConfig(net=NET)
    actor = Actor(net, 1, CHOICES, *box, discrete=True, action_mask_slice=mask)
    head: Any = actor.net.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 2, 3, 4]).log())
    return actor


# --- the policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "chances"),
    [
        ([1, 0, 1, 0], [1 / 4, 0, 3 / 4, 0]),
        ([0, 1, 0, 0], [0, 1, 0, 0]),
        ([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]),  # gone: as if all were open
    ],
)
def test_the_policy_is_the_softmax_over_available_actions(mask, chances):
    actor, obs = masked_actor(), torch.tensor([mask], dtype=torch.float32)
    expected = torch.tensor(chances, dtype=torch.float32)
    for choice, chance in enumerate(chances):
        action = torch.eye(CHOICES)[choice : choice + 1]
        found = actor.log_prob(obs, action).item()
        assert found == pytest.approx(math.log(chance), abs=1e-6) if chance else found < -1e8
    entropy = -sum(chance * math.log(chance) for chance in chances if chance)
    assert actor.entropy(obs).item() == pytest.approx(entropy, abs=1e-6)
    assert actor.act(obs, None).argmax() == expected.argmax()
    noise = torch.randn(20_000, 1, CHOICES, generator=torch.Generator().manual_seed(0))
    drawn = actor.act(obs.expand(20_000, 1, CHOICES), noise).mean((0, 1))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.015)
    assert not drawn[expected == 0].any()


def test_a_masked_action_gets_no_gradient():
    actor, obs = masked_actor(), torch.tensor([[1.0, 0, 1, 0]])
    head: Any = actor.net.head
    noise = torch.randn(1, CHOICES, generator=torch.Generator().manual_seed(0))
    worth = torch.tensor([[5.0, -7, 2, 3]])
    for value in (
        actor.log_prob(obs, torch.eye(CHOICES)[:1]).sum(),
        actor.entropy(obs).sum(),
        (actor.act(obs, noise) * worth).sum(),
    ):
        (slope,) = torch.autograd.grad(value, head.bias)
        assert not slope[[1, 3]].any()
        assert slope[[0, 2]].all() and slope.isfinite().all()


@pytest.mark.parametrize("settings", ACTORS, ids=IDS)
def test_a_policy_ignores_the_state_and_passes_no_gradient_to_the_mask(settings):
    env = MaskedReach()
    actor, obs = randomised(build_actor(settings, env)), masked_observations()
    actor.statistics.update(obs)
    actor.statistics.snapshot()
    noise = torch.randn(4, ENVS, AGENTS, CHOICES, generator=torch.Generator().manual_seed(0))
    other = obs.clone()
    other[..., env.global_state_slice] += 3.0
    assert torch.equal(actor.act(obs, noise), actor.act(other, noise))
    assert closed_choices(env, obs, actor.act(obs, noise)) == 0
    seen = obs.requires_grad_()
    action = actor.act(seen, noise)
    for value in (action.square().sum(), actor.log_prob(seen, action.detach()).sum()):
        (slope,) = torch.autograd.grad(value, seen, retain_graph=True)
        assert not slope[..., SEEN:].any()
        assert slope[..., :SEEN].any()


def test_the_mask_is_not_normalised_and_is_an_input():
    env, obs = MaskedReach(), masked_observations()
    actor = randomised(Actor.of(ActorConfig(net=SEPARATE), env))
    before = actor._inputs(obs)[..., SEEN:]
    actor.statistics.update(2.0 * obs + 5.0)
    actor.statistics.snapshot()
    assert torch.equal(actor._inputs(obs)[..., SEEN:], before)
    assert torch.equal(before, obs[..., env.action_mask_slice])
    mask = torch.ones(CHOICES)
    closed = torch.tensor([1.0, 1, 1, 0])
    row = torch.zeros(1, AGENTS, env.obs_dim)
    row[..., env.action_mask_slice] = mask
    all_open = actor(row)
    row[..., env.action_mask_slice] = closed
    assert not torch.allclose(all_open[..., :3], actor(row)[..., :3])


def test_columns_may_stand_in_any_order():
    """The state before the action mask, and features around them."""
    box = torch.zeros(2, 3), torch.ones(2, 3)
    roles = {"action_mask_slice": slice(5, 8), "global_state_slice": slice(1, 4)}
    actor = Actor(ActorConfig(net=NET), 2, 9, *box, discrete=True, **roles)
    obs = torch.rand(11, 2, 9, generator=torch.Generator().manual_seed(0))
    obs[..., 5:8] = torch.tensor([0.0, 1, 0])
    assert (actor.act(obs, None).argmax(-1) == 1).all()
    assert torch.equal(actor._inputs(obs), without(obs, slice(1, 4)))


def test_a_critic_reads_the_state():
    critic = Critic(CriticConfig(net=NET), AGENTS, MaskedReach().obs_dim)
    for parameter in critic.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    obs = masked_observations().requires_grad_()
    (slope,) = torch.autograd.grad(critic(obs).sum(), obs)
    assert slope[..., MaskedReach.global_state_slice].any()


# --- the env --------------------------------------------------------------------------------------


def test_the_largest_available_entry_is_the_action_everywhere():
    """Not the first of those that clamping would make equal; a closed one reaches no model."""
    given = 3 * draw(6, ENVS, AGENTS, CHOICES)
    rewards = []
    for env in (bare := MaskedReach(), learned(MaskedReach())):
        env.reset(seed=0)
        rewards.append(torch.stack([env.step(action)[1] for action in given]))
        env.reset(seed=0)
        actions = iter(given)
        window = env.rollout(lambda obs, actions=actions: next(actions), 6)
        rewards.append(window.reward)
        now = available_actions(window.obs, env.action_mask_slice)
        largest = given.masked_fill(~now, -torch.inf).argmax(-1)
        assert torch.equal(window.action.argmax(-1), largest)
        assert torch.equal(window.action.sum(-1), torch.ones(6, ENVS, AGENTS))
        assert closed_choices(env, window.obs, given) > 30
        gone = ~window.obs[..., env.action_mask_slice].bool().any(-1)
        assert gone[..., 2].any() and not gone[..., :2].any()
    assert bare.closed == 0 and bare.taken > 200
    assert all(torch.equal(rewards[0], reward) for reward in rewards[1:])


def test_an_env_with_wrong_columns_is_refused_before_anything_is_learned(monkeypatch):
    monkeypatch.setattr(MaskedReach, "action_mask_slice", slice(0, 3))
    with pytest.raises(UsageError, match="4 features are needed"):
        MaskedReach().reset(seed=0)
    env = make("vmas/transport", num_envs=2)
    env.action_mask_slice = slice(0, 2)
    with pytest.raises(UsageError, match="this env's actions are continuous"):
        env.reset(seed=0)


def test_the_mask_passes_no_gradient_even_if_declared_continuous():
    env = LearnedDiffWrapper(
        MaskedReach(), continuous=torch.ones(MaskedReach().obs_dim, dtype=torch.bool)
    )
    assert env.surrogates.continuous.mask.sum() == AGENTS * (SEEN + AGENTS)
    assert not env.surrogates.continuous.mask[:, env.action_mask_slice].any()
    roles = (env.action_mask_slice, env.global_state_slice, env.discrete_actions)
    assert roles == (MaskedReach.action_mask_slice, MaskedReach.global_state_slice, True)


@pytest.mark.parametrize(
    ("roles", "advice"),
    [
        ({"action_mask_slice": slice(0, 3)}, "4 features are needed"),
        ({"action_mask_slice": slice(7, 11)}, "within the 10 features"),
        ({"action_mask_slice": slice(4)}, r"slice\(start, stop\)"),
        ({"global_state_slice": slice(0, 10)}, "the policy would see nothing"),
        ({"global_state_slice": slice(3, 3)}, "within the 10 features"),
        (
            {"action_mask_slice": slice(0, 4), "global_state_slice": slice(3, 7)},
            r"share the features \{3\}",
        ),
        ({"action_mask_slice": slice(0, 4), "discrete": False}, "actions are continuous"),
    ],
)
def test_invalid_slices_are_refused(roles, advice):
    given = {"action_mask_slice": None, "global_state_slice": None, "discrete": True} | roles
    with pytest.raises(UsageError, match=advice):
        check_columns(**given, obs_dim=10, act_dim=4)


# --- learning -------------------------------------------------------------------------------------


KINDS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "ppo, one after another": {"actor": ACTORS[2]},
    "mappo": {},
    "shac++": {"noise": NoiseConfig()},
    "shac++, all actions": {
        "noise": NoiseConfig(),
        "update": GradientUpdateConfig(gradient=AllActionConfig()),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_masked_actions_are_never_taken_in_training(kind, monkeypatch):
    """Over 100 steps of learning; the env need not replace any."""
    env, replaced = MaskedReach(), 0
    original = MaskedReach.apply_action_mask

    def apply_action_mask(self: MaskedReach, action: Tensor) -> Tensor:
        nonlocal replaced
        replaced += int((original(self, action) - action).abs().sum() > 0)
        return original(self, action)

    monkeypatch.setattr(MaskedReach, "apply_action_mask", apply_action_mask)
    case = TRAINERS[kind.partition(",")[0]]
    agent = case.make(case.wrap(env), horizon=16, **KINDS[kind]).learn(7 * 16 * ENVS)
    assert agent.iteration == 7 and agent.skipped == 0
    assert env.taken > 100 * ENVS * 2 and env.closed == 0 and replaced == 0
    evaluate(agent.predict, test := MaskedReach())
    assert test.taken > 100 and test.closed == 0 and replaced == 0


@pytest.mark.parametrize("state", [False, True])
def test_dynamics_can_be_learned_where_the_state_determines_what_is_seen(state):
    """Half of the change is out of sight, so that no model without the state explains it."""
    surrogates = SurrogateConfig(fit=FitConfig(minibatches=30, batch_size=256, lr=3e-3))
    env = LearnedDiffWrapper(HiddenHalf(state=state, num_envs=211), config=surrogates)
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)

    def policy(obs: Tensor) -> Tensor:
        return 2 * torch.rand(211, 2, 1, generator=generator) - 1

    for _ in range(5):
        report = env.fit(env.collect(policy, 10))
    if state:
        assert report["dynamics_error"] < 0.02
    else:
        assert 0.4 < report["dynamics_error"] < 0.65


def test_the_gradient_runs_through_the_state():
    """Two steps on, an action is seen only by way of what was hidden in between."""
    numbers = torch.ones(3, dtype=torch.bool)
    models = {"dynamics": Swapped(), "reward": SquaredX()}
    env = LearnedDiffWrapper(HiddenHalf(state=True), continuous=numbers, **models)
    env.reset(seed=0)
    action = torch.zeros(3, ENVS, 2, 1, requires_grad=True)
    steps = iter(action)
    window = env.rollout(lambda obs: next(steps), 3)
    (slope,) = torch.autograd.grad(window.reward[2].sum(), action)
    # x_3 = s_2 + a_2 / 10 and s_2 = x_1 = s_0 + a_0 / 10: d(-x_3²)/da = -x_3 / 5
    expected = -window.next_obs[2, ..., :1].detach() / 5
    torch.testing.assert_close(slope[0], expected)
    assert not slope[1].any()


class Swapped(nn.Module):
    """The true dynamics of `HiddenHalf`."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x, s = obs[..., 0], torch.stack([obs[..., 0, 1], obs[..., 1, 2]], dim=-1)
        after = (s + 0.1 * action.squeeze(-1)).unsqueeze(-1)
        return torch.cat([after, x.unsqueeze(-2).expand(*x.shape, 2)], dim=-1)


class SquaredX(nn.Module):
    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return -next_obs[..., 0].square()
