"""SHAC: a known optimum, what it refuses, and what each update does."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.reach import (
    ACT,
    AGENTS,
    ENVS,
    HORIZON,
    NET,
    OBS,
    Reach,
    config,
    learned_reach,
    mean_return,
    same,
    true_reach,
    weights,
)

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

# --- learning --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("squash", "learn_std"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_points_learn_to_go_straight_home(squash, learn_std):
    """Return -1/12 at best; standing still costs 8 steps of 2/3, -5.3."""
    torch.manual_seed(0)
    actor = ActorConfig(
        net=NetConfig(architecture="shared", hidden=(32,)),
        std=0.3,
        squash=squash,
        learn_std=learn_std,
    )
    critic = CriticConfig(net=NetConfig(architecture="shared", hidden=(32,)))
    agent = SHAC(
        Reach(num_envs=61), config(actor=actor, critic=critic, actor_lr=0.01, noise=NoiseConfig())
    )
    before = mean_return(agent)
    std = agent.actor.log_std.exp().mean()
    agent.learn(total_steps=200 * 61 * HORIZON)
    assert before < -3
    assert -1 / 12 - 0.2 < mean_return(agent) < -1 / 12 + 0.02
    if learn_std:  # noise only costs
        assert agent.actor.log_std.exp().mean() < 0.7 * std


def test_the_learned_gradient_leads_home_too():
    net = NetConfig(architecture="shared", hidden=(32,), activation="silu")
    surrogates = SurrogateConfig(
        reward=RewardConfig(net=net), step=StepModelConfig(net=net), batch_size=128
    )
    env = LearnedDiffWrapper(Reach(num_envs=61, differentiable=False), config=surrogates)
    shared = NetConfig(architecture="shared", hidden=(32,))
    settings = config(
        actor=ActorConfig(net=shared, std=0.3),
        critic=CriticConfig(net=shared),
        noise=NoiseConfig(),
    )
    agent = SHAC(env, settings).learn(total_steps=160 * 61 * HORIZON)
    assert mean_return(agent) > -0.6  # of -5.3 at the start; -0.08 is the best


@pytest.mark.parametrize("part", [(), ("dynamics",), ("reward",)])
def test_an_env_without_gradients_is_refused_with_advice(part):
    env = Reach(differentiable=False)
    env.gradients = frozenset(part)
    with pytest.raises(UsageError, match=r"LearnedDiffWrapper\(env\)"):
        SHAC(env)


def test_predict_refuses_another_shape():
    with pytest.raises(UsageError, match=r"\(\.\.\., 3, 5\)"):
        SHAC(Reach(), config()).predict(torch.zeros(ENVS, AGENTS, OBS + 1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"critic_updates": 0}, "critic_updates"),
        ({"critic_batch_size": 0}, "critic_batch_size"),
        ({"gamma": 1.1}, "gamma"),
        ({"lam": -0.1}, "lam"),
        ({"actor_lam": 1.5}, "actor_lam"),
        ({"final_std": 0.0}, "final_std"),
        ({"std_steps": 0}, "std_steps"),
        ({"segment_length": 5}, "divides the horizon"),
        ({"segment_length": 0}, "segment_length"),
        ({"actor_epochs": 0}, "actor_epochs"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(kwargs, message):
    with pytest.raises(UsageError, match=message):
        SHACConfig(**kwargs)


# --- updates ---------------------------------------------------------------------------------


METRICS = {
    "actor_loss",
    "actor_gradient_norm",
    "skipped_updates",
    "reward",
    "episodes_ended",
    "episodes_terminated",
    "critic_loss",
    "value_target",
    "env_steps",
    "update_cpu_seconds",
}
LEARNED_METRICS = {
    "reward_loss",
    "reward_error",
    "dynamics_loss",
    "dynamics_error",
    "cached_transitions",
}


@pytest.mark.parametrize(
    ("make_env", "keys"), [(true_reach, METRICS), (learned_reach, METRICS | LEARNED_METRICS)]
)
def test_every_update_reports_finite_numbers(make_env, keys):
    agent = SHAC(make_env(), config(randomise_episode_phase=False))
    reports = list(agent.iterations(4))
    assert set(reports[-1]) >= keys
    for report in reports:
        assert all(torch.isfinite(torch.tensor(value)) for value in report.values())
    assert [report["env_steps"] for report in reports] == [28.0, 56.0, 84.0, 112.0]
    assert [report["episodes_ended"] for report in reports] == [0.0, 7.0, 0.0, 7.0]
    assert reports[-1]["episodes_terminated"] == 0.0


@pytest.mark.parametrize("total_steps", [1, 28, 29, 56, 57])
def test_steps_are_rounded_up_to_whole_windows(total_steps):
    """A window is 7 envs of 4 steps."""
    agent = SHAC(Reach(), config()).learn(total_steps)
    assert agent.iteration == {1: 1, 28: 1, 29: 2, 56: 2, 57: 3}[total_steps]
    assert agent.env_steps == 28 * agent.iteration


def test_learning_goes_on_to_the_total():
    agent = SHAC(Reach(), config())
    agent.learn(56).learn(56)
    assert agent.iteration == 2
    assert agent.learn(84).update == 3


@pytest.mark.parametrize(("answer", "updates"), [(False, 2), (None, 5), (True, 5)])
def test_only_false_stops(answer, iterations):
    agent = SHAC(Reach(), config())

    def callback(trainer: SHAC, metrics: dict[str, float]) -> bool | None:
        assert trainer is agent
        assert metrics["env_steps"] == 28 * trainer.iteration
        return answer if trainer.iteration == 2 else None

    assert agent.learn(5 * 28, callback).update == iterations


def test_a_progress_bar_may_be_shown(capsys):
    SHAC(Reach(), config()).learn(56, progress_bar=True)
    assert "reward=" in capsys.readouterr().err


def rates(schedule: str) -> list[tuple[float, float]]:
    agent, seen = SHAC(Reach(), config(schedule=schedule, actor_lr=0.1, critic_lr=0.02)), []
    optimisers = (agent.actor_optimiser, agent.critic_optimiser)
    for _ in agent.iterations(4):
        seen.append(tuple(optimiser.param_groups[0]["lr"] for optimiser in optimisers))
    return seen


def test_learning_rates_fall_linearly():
    """From 0.1 and 0.02 towards 1e-5, a quarter of the way per update of four."""
    for index, (actor, critic) in enumerate(rates("linear")):
        share = index / 4
        assert actor == pytest.approx(0.1 * (1 - share) + 1e-5 * share)
        assert critic == pytest.approx(0.02 * (1 - share) + 1e-5 * share)
    assert rates("constant") == [(0.1, 0.02)] * 4


def test_non_finite_gradients_are_skipped_and_counted():
    agent = SHAC(Reach(), config())
    skipped, before = [], []

    def callback(trainer: SHAC, metrics: dict[str, float]) -> None:
        skipped.append(metrics["skipped_updates"])
        after = [p.detach().clone() for p in trainer.actor.parameters()]
        assert all(torch.isfinite(p).all() for p in after)
        assert same(before[-1], after) == trainer.env.broken
        assert torch.isfinite(torch.tensor(metrics["actor_gradient_norm"])) != trainer.env.broken
        before.append(after)
        trainer.env.broken = trainer.iteration in (2, 3)

    before.append([p.detach().clone() for p in agent.actor.parameters()])
    agent.learn(6 * 28, callback)
    assert skipped == [0.0, 0.0, 1.0, 2.0, 2.0, 2.0]
    assert all(torch.isfinite(value).all() for value in weights(agent))


def test_gradients_that_are_never_finite_are_told_of():
    env = Reach()
    env.broken = True
    SHAC(env, config()).learn(9 * 28)
    with pytest.warns(RuntimeWarning, match=r"in each of the last 10 updates a gradient was not"):
        SHAC(env, config()).learn(10 * 28)


def test_one_infinite_reward_does_not_end_the_training():
    class Spike(Reach):
        def step(self, actions: Tensor) -> Any:  # as a wrapper might: the env checks its own
            obs, reward, *rest = super().step(actions)
            return obs, reward / 0 if self.broken else reward, *rest

    def callback(trainer: SHAC, metrics: dict[str, float]) -> None:
        trainer.env.broken = trainer.iteration == 2

    agent = SHAC(Spike(), config()).learn(6 * 28, callback)
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())
    assert agent.skipped == 1


@pytest.mark.parametrize("batch", [13, 1000], ids=["minibatches", "whole windows"])
def test_without_a_value_cache_the_critic_learns_from_the_window(batch):
    kwargs = {"value_capacity": 0, "critic_updates": 4, "critic_batch_size": batch}
    agent = SHAC(Reach(), config(actor_lr=0.0, critic_lr=0.01, gamma=0.0, **kwargs))
    assert agent.values is None
    losses = [report["critic_loss"] for report in agent.iterations(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize(("batch", "rounds"), [(13, 2), (14, 2), (28, 1), (1000, 1)])
def test_without_a_value_cache_no_state_comes_twice_before_all_came(batch, rounds):
    agent = SHAC(Reach(), config(value_capacity=0, critic_updates=5, critic_batch_size=batch))
    obs = torch.arange(28.0).reshape(28, 1, 1)
    batches = list(agent._critic_batches(obs, obs[..., 0]))
    assert [len(b["obs"]) for b in batches] == [min(batch, 28)] * 5
    assert all(torch.equal(b["obs"][..., 0], b["target"]) for b in batches)
    first = torch.cat([b["obs"] for b in batches[:rounds]]).flatten().tolist()
    assert len(set(first)) == len(first)


def test_envs_are_staggered_if_asked():
    for randomise_episode_phase in (True, False):
        agent = SHAC(Reach(num_envs=61), config(randomise_episode_phase=randomise_episode_phase))
        ends = [report["episodes_ended"] for report in agent.iterations(4)]
        assert (ends == [0.0, 61.0, 0.0, 61.0]) != randomise_episode_phase


@pytest.mark.parametrize(("limit", "ages"), [(32, range(0, 32, 4)), (31, range(31))])
def test_envs_are_staggered_by_windows_if_that_leaves_eight_ages(limit, ages):
    env = Reach(num_envs=997)
    env.max_steps = limit
    agent = SHAC(env, config(horizon=4))
    next(agent.iterations(1))
    found = (env.state()["steps"] - 4) % limit
    assert sorted(set(found.tolist())) == list(ages)


def test_the_seed_decides_everything_and_the_global_stream_nothing():
    def trained(seed: int, around: int) -> list[Tensor]:
        torch.manual_seed(around)
        state = torch.get_rng_state()
        agent = SHAC(learned_reach(), config(), seed=seed).learn(84)
        assert torch.equal(torch.get_rng_state(), state)
        return weights(agent)

    assert same(trained(1, around=0), trained(1, around=5))
    assert not same(trained(1, around=0), trained(2, around=0))


# --- acting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", [(ENVS,), (), (2, ENVS)])
@pytest.mark.parametrize("squash", [False, True])
def test_predictions_are_in_the_box_and_have_no_graph(leading, squash):
    actor = ActorConfig(net=NET, std=5.0, squash=squash, head_gain=1.0)
    agent, obs = SHAC(Reach(), config(actor=actor)), torch.randn(*leading, AGENTS, OBS)
    mean, sample, other = agent.predict(obs), agent.predict(obs, False), agent.predict(obs, False)
    for action in (mean, sample):
        assert action.shape == (*leading, AGENTS, ACT)
        assert action.abs().max() <= 1
        assert not action.requires_grad
    assert torch.equal(mean, agent.predict(obs, deterministic=True))
    assert not torch.equal(sample, other)


def test_sampling_actions_leaves_the_training_alone():
    """Whoever evaluates a stochastic policy between updates must not change what is learned."""

    def look(agent: SHAC, metrics: dict[str, float]) -> None:
        agent.predict(torch.zeros(ENVS, AGENTS, OBS), deterministic=False)

    watched, alone = SHAC(Reach(), config()).learn(84, look), SHAC(Reach(), config()).learn(84)
    assert same(weights(watched), weights(alone))


# --- where it begins ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("gymnasium/Pendulum-v1", False),
        ("games/climbing", False),
        ("vmas/navigation", True),
        ("diffsurrogate/cartpole-swingup", True),
    ],
)
def test_it_begins_as_suits_an_env_without_gradients_of_its_own(name, has):
    bare = make(name, num_envs=2)
    assert bare.native_gradients == ({"dynamics", "reward"} if has else set())
    env = LearnedDiffWrapper(bare)
    assert env.native_gradients == bare.native_gradients
    assert SHAC(env).config == (SHACConfig() if has else SHACConfig.for_external_envs())
    assert env.config.termination != has
    assert not LearnedDiffWrapper(bare, config=SurrogateConfig()).config.termination
    assert SHAC(env, SHACConfig(horizon=5)).config.horizon == 5


def test_its_windows_are_no_longer_than_a_world_model_reaches():
    config = SurrogateConfig(model="awm", loop="open")
    env = LearnedDiffWrapper(make("gymnasium/Pendulum-v1", num_envs=2), config=config)
    agent = SHAC(env)
    assert agent.config == replace(SHACConfig.for_external_envs(), horizon=env.max_horizon)
    agent.learn(total_steps=2 * agent.config.horizon)
    assert agent.skipped == 0
