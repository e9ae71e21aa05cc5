"""Agents that are not there: who they are, and that no policy learns from what they did."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys.reach import AGENTS, ENVS, HORIZON, Reach, learned
from toys.reach import config as shac_config
from toys.turnover import TERMINATE, lives

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, PolicyBatch, clipped_epochs
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.optimisation import ClippedAdam, Gradient
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

SEPARATE = SeparateNetConfig(hidden=(8,))
AWAY = 1


class HalfEmpty(Reach):
    """Agent 1 is never there, agent 0 not in env 2."""

    @property
    def alive_mask(self) -> Tensor:
        there = torch.ones(self.num_envs, self.num_agents, dtype=torch.bool)
        there[:, AWAY] = False
        there[2, 0] = False
        return there


def half_empty() -> HalfEmpty:
    return HalfEmpty(differentiable=False)


def proximal(kind: type[PPO], **clip: Any) -> Trainer:
    start = kind.default_config()
    options = replace(start.clip, epochs=2, batch_size=13, entropy_weight=0.1, **clip)
    actor = replace(start.actor, net=SEPARATE)
    return kind(half_empty(), replace(start, horizon=HORIZON, clip=options, actor=actor))


def shac(env: Any, **options: Any) -> Trainer:
    actor = ActorConfig(net=SEPARATE, std=1.5, learn_std=True)
    return SHAC(env, shac_config(actor=actor, **options))


HYBRID = {
    "update": HybridUpdateConfig(ppo=ClipConfig(epochs=2, batch_size=13, advantage="shared")),
    "noise": NoiseConfig(kind="white"),
}
TRAINERS = {
    "ippo": lambda: proximal(IPPO),
    "mappo": lambda: proximal(MAPPO),
    "ppo, ratio of the team": lambda: proximal(PPO, ratio="joint"),
    "bppo": lambda: proximal(BPPO),
    "happo": lambda: proximal(HAPPO),
    "armappo": lambda: proximal(ARMAPPO),
    "shac++": lambda: shac(learned(half_empty())),
    "shac++, open loop": lambda: shac(
        LearnedDiffWrapper(half_empty(), config=replace(learned(half_empty()).config, loop="open"))
    ),
    "shac++, penalty on means": lambda: shac(
        learned(half_empty()),
        update=GradientUpdateConfig(gradient=PathwiseConfig(action_penalty_on="means")),
    ),
    "shac++, hybrid": lambda: shac(learned(half_empty()), **HYBRID),
    "shac+": lambda: shac(LearnedDiffWrapper(HalfEmpty(), dynamics=False)),
}


def of_agents(trainer: Trainer) -> list[list[Tensor]]:
    """Return the policy's weights of each agent."""
    actor = trainer.actor
    learned_ones = dict(actor.named_parameters()).items()
    if isinstance(actor, AutoregressiveActor):
        return [
            [p.detach().clone() for name, p in learned_ones if f".{agent}." in f".{name}."]
            for agent in range(AGENTS)
        ]
    own = [p for _, p in learned_ones if p.requires_grad and p.shape[0] == AGENTS]
    return [[p[agent].detach().clone() for p in own] for agent in range(AGENTS)]


@pytest.mark.parametrize("make_one", TRAINERS.values(), ids=TRAINERS)
def test_agents_that_are_never_alive_learn_nothing_and_the_others_do(make_one):
    torch.manual_seed(0)
    trainer = make_one()
    before = of_agents(trainer)
    assert all(np.isfinite(list(report.values())).all() for report in trainer.iterations(3))
    for agent, pair in enumerate(zip(before, of_agents(trainer), strict=True)):
        moved = [not torch.equal(old, new) for old, new in zip(*pair, strict=True)]
        assert len(moved) >= 4
        assert not any(moved) if agent == AWAY else any(moved)


def test_actions_of_dead_agents_are_not_weighed(monkeypatch):
    env = make("games/climbing", num_envs=ENVS, steps=3)
    there = torch.tensor([True, False]).expand(ENVS, 2)
    monkeypatch.setattr(type(env), "alive_mask", property(lambda self: there))
    actor = ActorConfig(net=SEPARATE, order="simultaneous")
    update = GradientUpdateConfig(gradient=AllActionConfig())
    trainer = SHAC(learned(env), shac_config(actor=actor, update=update))
    before = [p.detach().clone() for p in trainer.actor.parameters() if p.requires_grad]
    list(trainer.iterations(3))
    after = [p.detach() for p in trainer.actor.parameters() if p.requires_grad]
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("ratio", ["per_agent", "joint"])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_clipped_step_is_of_live_agents_alone(ratio, normalise):
    """What the others did, and how well, may be anything."""
    trainer = proximal(IPPO)
    actor, generator = trainer.actor, torch.Generator().manual_seed(0)
    shape = (HORIZON, ENVS, AGENTS)
    obs, action = (torch.randn(*shape, n, generator=generator) for n in (5, 2))
    alive_mask = torch.rand(shape, generator=generator) < 0.6
    gain = torch.randn(shape, generator=generator)
    with torch.no_grad():
        log_prob = actor.log_prob(obs, action) + 0.1 * torch.randn(shape, generator=generator)

    def gradient(odd: float) -> list[Tensor]:
        strange = torch.where(alive_mask.unsqueeze(-1), action, odd)
        old = torch.where(alive_mask, log_prob, odd)
        own_gain = torch.where(alive_mask, gain, odd) if ratio == "per_agent" else gain
        past = PolicyBatch(
            obs=obs, action=strange, log_prob=old, advantage=own_gain, alive_mask=alive_mask
        )
        found: list[Tensor] = []

        class Differentiated(ClippedAdam):
            def step(self, loss: Tensor, extra_grad: Gradient | None = None, **_: object) -> Tensor:
                found.extend(torch.autograd.grad(loss, self.weights))
                return torch.zeros(())

        options = ClipConfig(
            epochs=1, batch_size=1000, advantage="individual", ratio=ratio, normalise=normalise
        )
        sampler = torch.Generator().manual_seed(1)
        optimiser = Differentiated(actor, 0.0, max_grad_norm=1.0)
        clipped_epochs(actor, past, config=options, generator=sampler, optimiser=optimiser)
        return found

    usual, strange = gradient(0.0), gradient(3.0)
    assert any(g.abs().max() > 0 for g in usual)
    for one, other in zip(usual, strange, strict=True):
        torch.testing.assert_close(one, other)


def test_agents_of_pettingzoo_are_dead_until_the_episode_ends_for_all():
    """a ends in step 2, b in 5, c in 3; the world after 5, and a new one begins."""
    env = as_multi_agent(
        lambda: lives((2, TERMINATE), (5, TERMINATE), (3, TERMINATE)), num_envs=ENVS
    )
    env.reset(seed=0)
    window = env.rollout(lambda obs: torch.zeros(ENVS, AGENTS, env.act_dim), 7)
    there = [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert window.alive_mask is not None
    for index in range(ENVS):
        assert window.alive_mask[:, index].tolist() == [[bool(x) for x in row] for row in there]


def test_without_dead_agents_there_is_no_alive_mask():
    env = make("mpe2/simple_spread_v3", num_envs=3)
    env.reset(seed=0)
    window = env.collect(lambda obs: torch.zeros(3, 3, env.act_dim), 30)
    assert window.alive_mask is None
    assert Reach().alive_mask is None


@pytest.mark.parametrize("shape", [(AGENTS,), (AGENTS, ENVS)])
def test_an_alive_mask_of_another_shape_or_type_is_refused(shape, monkeypatch):
    for dtype in (torch.bool, torch.float32):
        said = torch.ones((ENVS, AGENTS) if dtype == torch.float32 else shape, dtype=dtype)
        monkeypatch.setattr(HalfEmpty, "alive_mask", property(lambda self, said=said: said))
        for env in (half_empty(), learned(half_empty())):
            env.reset(seed=0)
            with pytest.raises(UsageError, match=r"\(env, agent\) = \(7, 3\) and torch.bool are"):
                env.rollout(lambda obs: torch.zeros(ENVS, AGENTS, 2), HORIZON)
