"""BPPO and its relatives: feedback, who learns when, saving, and what they refuse."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.by_hand import draw
from toys.reach import AGENTS, ENVS, HORIZON, Reach
from toys.trainers import SEPARATE, plain_reach, sequential

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.bppo import (
    ARMAPPO,
    BPPO,
    HAPPO,
    BPPOConfig,
    SequentialBatch,
    peer_feedback,
)
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


def game() -> MultiAgentVectorEnv:
    return make("games/climbing", num_envs=ENVS, steps=3)


def batch(steps: int, dtype: torch.dtype = torch.float32) -> SequentialBatch:
    return SequentialBatch(
        obs=draw(steps, AGENTS, 5, seed=1).to(dtype),
        action=2 * draw(steps, AGENTS, 2, seed=2).to(dtype),
        noise=draw(steps, AGENTS, 2, seed=3).to(dtype),
        log_prob=draw(steps, AGENTS, seed=4).to(dtype),
        gain=draw(steps, AGENTS, seed=5),
        alive_mask=torch.ones(steps, AGENTS, dtype=torch.bool),
    )


# --- feedback -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["listed", "reversed"])
def test_feedback_is_the_slope_of_the_ratio_of_all_who_act_later(order):
    """Against central differences of M, in float64, for the agent that acts first."""
    torch.manual_seed(0)
    config = ActorConfig(net=SEPARATE, head_gain=1.0, order=order, std=0.7, learn_std=True)
    box = torch.ones(AGENTS, 2)
    actor = AutoregressiveActor(config, AGENTS, 5, -2 * box, 3 * box).double()
    first, *later = actor.agent_order.tolist()
    past = batch(11, torch.float64)
    obs, action = past.obs, past.action
    changes, slopes = zip(*(peer_feedback(actor, agent, past) for agent in later), strict=True)
    ratio = sum(changes).exp()
    got = ratio.unsqueeze(-1) * sum(slopes)[:, first]

    def later_ratio(seen: Tensor) -> Tensor:
        new = [actor.log_prob_of(j, actor.output(j, obs, seen), action) for j in later]
        return (sum(new) - past.log_prob[:, later].sum(-1)).exp().detach()

    seen, step = actor.seen(action), 1e-6
    torch.testing.assert_close(later_ratio(seen), ratio)
    for feature in range(2):
        ends = []
        for side in (step, -step):
            moved = seen.clone()
            moved[:, first, feature] += side
            ends.append(later_ratio(moved))
        torch.testing.assert_close(got[:, feature], (ends[0] - ends[1]) / (2 * step))
    assert float(got.abs().max()) > 0.01
    own = sum(slopes)[:, later[-1]]  # nobody sees the last one
    assert float(own.abs().max()) == 0.0


TABLE = torch.tensor([[0.5, -1.0, 0.3], [-0.2, 0.8, 0.1], [0.4, 0.6, -0.9]])
"""Logits of agent 1: its choice down, the choice of agent 0 across."""


def two_agents(**more: Any) -> tuple[BPPO, SequentialBatch]:
    """Agent 0 picks uniformly; agent 1 by `TABLE`, and uniformly when it acted."""
    env = make("games/climbing", num_envs=5)
    agent = BPPO(env, sequential(actor={"conditioning": "raw"}, **more))
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
        agent.actor.net[1].head.weight[:, 8:11] = TABLE  # after 8 hidden features
    choices = torch.tensor([[0, 2], [1, 1], [2, 0], [1, 2], [0, 0]])
    past = SequentialBatch(
        obs=torch.ones(5, 2, 1),
        action=torch.nn.functional.one_hot(choices, 3).float(),
        noise=draw(5, 2, 3, seed=4),
        log_prob=torch.full((5, 2), 1 / 3).log(),
        gain=torch.tensor([[1.0, 2.0], [-1.5, 0.5], [0.7, -0.3], [-2.0, 1.0], [0.1, 0.2]]),
        alive_mask=torch.ones(5, 2, dtype=torch.bool),
    )
    return agent, past


def first_agent_by_hand(past: SequentialBatch, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """M, c, what agent 0 ascends and its gradient with respect to the agent's logits."""
    k, j = past.action[row].argmax(-1).tolist()
    chance, gain = TABLE[:, k].softmax(0), past.gain[row, 0]
    m = 3 * chance[j]
    c = m * (TABLE[j] - chance @ TABLE)
    uniform = torch.distributions.Normal(0.0, 1.0).cdf(past.noise[row, 0])
    s = (-(-uniform.log()).log()).softmax(0)
    through_g = (s.diag() - s.outer(s)) @ c
    through_ratio = m * (past.action[row, 0] - 1 / 3)
    return m, c, (m + c[k]) * gain, (through_ratio + through_g) * gain  # ρ = 1, g is the choice


def test_the_whole_objective_of_two_agents_with_discrete_actions_by_hand():
    """Row by row: M = 3 π(l|k), c = M (U_l - Σ π_m U_m), and the slope of agent 0's logits."""
    agent, past = two_agents()
    change, slope = peer_feedback(agent.actor, 1, past)
    ratio = change.exp()
    peer_grad = ratio.unsqueeze(-1) * slope[:, 0]
    out = agent.actor.output(0, past.obs, past.action)
    loss, _ = agent._loss(0, out, past, ratio, peer_grad)
    (got,) = torch.autograd.grad(loss, agent.actor.net[0].head.bias)
    rows = [first_agent_by_hand(past, row) for row in range(5)]
    m, c, value, gradient = (torch.stack(column) for column in zip(*rows, strict=True))
    torch.testing.assert_close(ratio, m)
    torch.testing.assert_close(peer_grad, c)
    torch.testing.assert_close(loss, -value.mean())
    torch.testing.assert_close(got, -gradient.mean(0))


def test_a_simultaneous_step_of_two_agents_with_discrete_actions_by_hand():
    """Agent 0 learns as in the sequential scheme. Agent 1 acts last: M = 1, nothing is passed back,
    and min(ρ A, clip(ρ) A) lets go of a ρ above 1.2 where A > 0."""
    clip = ClipConfig(epochs=1, batch_size=5, lr=0.0, max_grad_norm=1e6)
    agent, past = two_agents(scheme="simultaneous", clip=clip)
    (report,) = agent._update_all(past)
    first, total = torch.zeros(3), 0.0
    table, clipped = torch.zeros(3, 3), 0
    for row in range(5):
        m, _, value, gradient = first_agent_by_hand(past, row)
        first -= gradient / 5
        total -= float(value) / 5
        k = int(past.action[row, 0].argmax())
        gain = float(past.gain[row, 1])
        total -= min(float(m) * gain, min(max(float(m), 0.8), 1.2) * gain) / 5
        if gain > 0 and m > 1.2:
            clipped += 1
        else:
            table[:, k] -= m * gain * (past.action[row, 1] - TABLE[:, k].softmax(0)) / 5
    assert clipped == 3
    net = agent.actor.net
    torch.testing.assert_close(net[0].head.bias.grad, first)
    torch.testing.assert_close(net[1].head.weight.grad[:, 8:11], table)
    torch.testing.assert_close(net[1].head.bias.grad, table.sum(1))
    assert report["clipped_loss"] == pytest.approx(total, rel=1e-5)
    change, slope = peer_feedback(agent.actor, 1, past)  # that of agent 1 only
    peer_grad = change.exp().view(-1, 1, 1) * slope
    assert report["peer_slope"] == pytest.approx(float(peer_grad.abs().mean()), rel=1e-5)
    assert report["peer_slope"] > 0
    silent, past = two_agents(scheme="simultaneous", use_peer_gradient=False, clip=clip)
    (report,) = silent._update_all(past)
    assert report["peer_slope"] == 0.0


# --- who learns when ------------------------------------------------------------------------------


def test_an_agents_update_leaves_other_weights_unchanged():
    """Adam's momentum included: weights of the others do not move, nor do their deviations."""
    agent = BPPO(plain_reach(), sequential()).learn(2 * 28)
    past = batch(28)
    before = {name: p.detach().clone() for name, p in agent.actor.named_parameters()}
    list(agent._update_one(1, past, torch.ones(28), draw(28, 2, seed=6)))
    for name, parameter in agent.actor.named_parameters():
        its = name.startswith(("net.1.", "own_log_std.1"))
        assert torch.equal(parameter, before[name]) != its, name


@pytest.mark.parametrize("kind", [BPPO, ARMAPPO, HAPPO])
@pytest.mark.parametrize("make_env", [plain_reach, game])
def test_the_ratio_of_an_unchanged_policy_is_1(kind, make_env):
    clip = replace(sequential(kind).clip, lr=0.0)
    agent = kind(make_env(), sequential(kind, clip=clip))
    for metrics in agent.iterations(3):
        assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["clipped_share"] == 0.0
    assert agent.skipped == 0


def test_the_update_order_is_backward_or_random():
    for order, turns in {"listed": [2, 1, 0], "reversed": [0, 1, 2]}.items():
        assert BPPO(plain_reach(), sequential(actor={"order": order}))._agents_to_update() == turns
    agent = BPPO(plain_reach(), sequential(actor={"order": "random"}))
    agent.actor.freeze_normaliser(agent.minibatch_rng)
    assert agent._agents_to_update() == agent.actor.agent_order.tolist()[::-1]
    drawn = {
        tuple(HAPPO(plain_reach(), sequential(HAPPO), seed=s)._agents_to_update())
        for s in range(40)
    }
    assert len(drawn) == 6


def advantage_and_gain(**clip: Any) -> tuple[Tensor, Tensor]:
    """Advantages of very different sizes, and what agents learn by: both (step, agent)."""
    agent = BPPO(plain_reach(), sequential(clip=ClipConfig(**clip)))
    agent.env.reset(seed=0)
    window = agent.env.collect(lambda obs: obs[..., :2], HORIZON)
    advantage = draw(HORIZON, ENVS, AGENTS, seed=1) * torch.tensor([1.0, 10.0, 100.0]) + 5
    return advantage.flatten(0, 1), agent._batch(window, window.action, advantage).gain


def test_gains_are_the_agents_own_or_the_teams_mean_and_normalised_unless_told_otherwise():
    advantage, gain = advantage_and_gain(normalise=False)
    assert torch.equal(gain, advantage)
    team = advantage.mean(-1, keepdim=True).expand(-1, AGENTS)
    torch.testing.assert_close(advantage_and_gain(normalise=False, advantage="shared")[1], team)
    for kind, raw in {"individual": advantage, "shared": team}.items():
        _, gain = advantage_and_gain(advantage=kind)
        expected = (raw - raw.mean(0)) / raw.std(0, unbiased=False)
        torch.testing.assert_close(gain, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheme", ["sequential", "simultaneous"])
@pytest.mark.parametrize(("target", "steps"), [(None, 9), (1e-7, 2), (1e3, 9)])
def test_a_window_is_left_once_the_policy_moved_far_enough(scheme, target, steps):
    """Nothing has moved before the first of 3 · 3 steps; the second minibatch shows that it did."""
    clip = ClipConfig(epochs=3, batch_size=2, lr=1e-2, target_kl=target)
    agent, past = two_agents(scheme=scheme, clip=clip)
    past = replace(past, log_prob=agent.actor.log_prob(past.obs, past.action).detach())
    if scheme == "simultaneous":
        reports = list(agent._update_all(past))
    else:
        reports = list(agent._update_one(0, past, torch.ones(5), torch.zeros(5, 3)))
    assert reports[0]["kl"] == 0.0
    assert reports[1]["kl"] > 1e-7
    assert len(reports) == steps


def test_without_m_learning_in_turn_is_learning_at_once():
    """With minibatches of a whole window, where the order of rows does not matter."""
    clip = ClipConfig(epochs=3, batch_size=28, lr=1e-2, max_grad_norm=1e6)
    learned = {}
    for name, scheme, use_peer_ratio in (
        ("in turn", "sequential", False),
        ("at once", "simultaneous", False),
        ("with M", "sequential", True),
    ):
        more = {"scheme": scheme, "use_peer_ratio": use_peer_ratio, "clip": clip}
        more["use_peer_gradient"] = False
        agent = BPPO(plain_reach(), sequential(**more)).learn(28)
        learned[name] = torch.cat([p.detach().flatten() for p in agent.actor.parameters()])
    at_once = learned["at once"]
    torch.testing.assert_close(learned["in turn"], at_once, atol=1e-4, rtol=0.0)
    assert float((learned["with M"] - at_once).abs().max()) > 1e-3


# --- others take the policy as well ---------------------------------------------------------------


@pytest.mark.parametrize("make_env", [plain_reach, game])
def test_ppo_takes_agents_that_act_one_after_another(make_env):
    config = PPOConfig(
        horizon=HORIZON,
        actor=ActorConfig(net=SEPARATE, order="random", learn_std=True),
        clip=ClipConfig(epochs=2, batch_size=13, ratio="joint", entropy_weight=0.1),
    )
    agent = PPO(make_env(), config).learn(3 * 28)
    assert agent.skipped == 0
    assert agent.predict(agent.env.current_obs, deterministic=False).isfinite().all()


@pytest.mark.parametrize("discrete", [False, True])
def test_shac_takes_agents_that_act_one_after_another(discrete):
    env = LearnedDiffWrapper(game() if discrete else plain_reach())
    actor = ActorConfig(net=SEPARATE, order="random")
    agent = SHAC(env, SHACConfig(horizon=HORIZON, actor=actor)).learn(3 * 28)
    assert agent.skipped == 0
    before = SHAC(env, agent.config).actor.net[0].head.weight
    assert not torch.equal(agent.actor.net[0].head.weight, before)


def test_all_action_gradients_refuse_agents_that_act_one_after_another():
    actor = ActorConfig(net=SEPARATE, order="listed")
    update = GradientUpdateConfig(gradient=AllActionConfig())
    with pytest.raises(UsageError, match=r"order='listed' .* use PathwiseConfig"):
        SHAC(LearnedDiffWrapper(game()), SHACConfig(actor=actor, update=update))


# --- refusals -------------------------------------------------------------------------------------


def test_happo_refuses_the_settings_of_bppo():
    with pytest.raises(UsageError, match=r"no peer gradient, .* start from BPPOConfig.happo\(\)"):
        HAPPO(Reach(), BPPOConfig())


@pytest.mark.parametrize("scheme", ["sequential", "simultaneous"])
def test_the_divergence_is_of_live_agents_alone(scheme):
    """Of a single step, before which old and new densities differ by .1 where agents are alive."""
    clip = replace(HAPPO.default_config().clip, epochs=1)
    order = {} if scheme == "sequential" else {"update_order": "backward"}
    settings = replace(HAPPO.default_config(), scheme=scheme, clip=clip, **order)
    agent = HAPPO(plain_reach(), settings)
    past = batch(11)
    alive = draw(11, AGENTS, seed=6) > 0
    with torch.no_grad():
        now = agent.actor.log_prob(past.obs, past.action)
    past = replace(past, log_prob=torch.where(alive, now - 0.1, now - 3.0), alive_mask=alive)
    nothing = torch.ones(11), torch.zeros(11, 2)
    steps = (
        agent._update_all(past)
        if scheme == "simultaneous"
        else (agent._update_one(1, past, *nothing))
    )
    (report,) = steps
    assert report["kl"].item() == pytest.approx(math.exp(0.1) - 1 - 0.1, rel=1e-3)
