"""SHAC: a known optimum, what it refuses, and what each update does."""

import math
from dataclasses import replace

import pytest
import torch
from toys.reach import AGENTS, Reach, config, mean_return, same
from toys.trainers import clipped

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import PPO
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SharedNetConfig
from diffsurrogate.optimisation import ClippedAdam
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

# --- learning --------------------------------------------------------------------------------


SHARED = SharedNetConfig(hidden=(32,))
DESCENT = GradientUpdateConfig(lr=0.01)


def learned_return(env, updates, *, noise=NoiseConfig(), update=DESCENT, **actor) -> float:  # noqa: B008
    """-1/12 at best; standing still costs 8 steps of 2/3, -5.3. Noise only costs."""
    torch.manual_seed(0)
    own = ActorConfig(net=SHARED, std=0.3, **actor)
    settings = config(actor=own, critic=CriticConfig(net=SHARED), noise=noise, update=update)
    agent = SHAC(env, settings)
    assert mean_return(agent) < -3
    std = agent.actor.log_std.exp().mean()
    agent.learn(updates * agent.steps_per_iteration)
    assert not own.learn_std or agent.actor.log_std.exp().mean() < 0.7 * std
    return mean_return(agent)


@pytest.mark.parametrize(("squash", "learn_std"), [(False, False), (True, True)])
def test_points_learn_to_go_straight_to_the_origin(squash, learn_std):
    got = learned_return(Reach(num_envs=61), 100, squash=squash, learn_std=learn_std)
    assert -1 / 12 - 0.2 < got < -1 / 12 + 0.02


@pytest.mark.parametrize("dynamics", [True, False], ids=["SHAC++", "SHAC+"])
def test_points_learn_by_learned_gradients_too(dynamics):
    net = SharedNetConfig(hidden=(32,), activation="silu")
    surrogates = SurrogateConfig(
        reward=RewardConfig(net=net),
        dynamics=StepModelConfig(net=net),
        fit=FitConfig(batch_size=128),
    )
    env = LearnedDiffWrapper(Reach(num_envs=31), dynamics=dynamics, config=surrogates)
    assert learned_return(env, 30, update=GradientUpdateConfig()) > -0.8


def test_lambda_returns_lead_points_to_the_origin():
    update = replace(DESCENT, gradient=PathwiseConfig(lam=0.8))
    assert learned_return(Reach(num_envs=61), 120, update=update) > -1 / 12 - 0.1


@pytest.mark.parametrize("kind", ["white", "ou"])
def test_ppo_steps_alone_lead_points_to_the_origin(kind):
    """Nothing of the pathwise gradient is left at a weight of 0."""
    clip = ClipConfig(epochs=4, batch_size=61, lr=3e-3)
    gradient = PathwiseConfig(action_penalty_weight=0.0)
    update = HybridUpdateConfig(ppo=clip, weight=0.0, gradient=gradient)
    noise = NoiseConfig(kind=kind, correlation=0.5)
    assert learned_return(Reach(num_envs=61), 15, update=update, noise=noise) > -0.5


@pytest.mark.parametrize("part", [(), ("dynamics",), ("reward",)])
def test_an_env_without_gradients_is_refused_with_advice(part):
    env = Reach(differentiable=False)
    env.gradients = frozenset(part)
    with pytest.raises(UsageError, match=r"LearnedDiffWrapper\(env\)"):
        SHAC(env)


# --- updates ---------------------------------------------------------------------------------


def rates(agent: Trainer, *optimisers: ClippedAdam) -> list[float]:
    """Those of two optimisers at each of four updates, in a row."""
    updates = agent.iterations(4)
    return [o.adam.param_groups[0]["lr"] for _ in updates for o in optimisers]


@pytest.mark.parametrize("lr_schedule", ["linear", "constant"])
def test_learning_rates_fall_linearly(lr_schedule):
    """From 0.1 and 0.02, a quarter of the way per update of four: SHAC's to 1e-5, PPO's to 0."""
    value = ValueLearningConfig(lr=0.02, minibatches=2, batch_size=13)
    update = GradientUpdateConfig(lr=0.1)
    shac = SHAC(Reach(), config(lr_schedule=lr_schedule, update=update, value=value))
    ppo = PPO(Reach(), clipped(PPO, {"lr": 0.1}, lr_schedule=lr_schedule, critic_lr=0.02))
    gone = [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75] if lr_schedule == "linear" else [0.0] * 8
    for last, found in (
        (1e-5, rates(shac, shac.policy_update.optimiser, shac.value.optimiser)),
        (0.0, rates(ppo, ppo.actor_optimiser, ppo.critic_optimiser)),
    ):
        starts = [0.1, 0.02] * 4
        expected = [lr * (1 - g) + last * g for lr, g in zip(starts, gone, strict=True)]
        assert found == pytest.approx(expected)


def test_a_step_of_a_gradient_that_is_not_finite_is_left_out():
    """Where it is of all copies: those of single ones are left out before."""
    agent, seen = SHAC(Reach(), config()), [[]]
    agent.env.gradient_guard.active = False

    def callback(trainer: SHAC, metrics: dict[str, float]) -> None:
        seen.append([p.detach().clone() for p in trainer.actor.parameters()])
        broken = trainer.iteration in (3, 4)
        assert same(seen[-2], seen[-1]) == broken if seen[-2] else not broken
        assert math.isfinite(metrics["actor_gradient_norm"]) != broken
        trainer.env.broken = trainer.iteration in (2, 3)

    agent.learn(6 * 28, callback)
    assert agent.skipped == 2


@pytest.mark.parametrize("batch", [13, 1000], ids=["minibatches", "whole windows"])
def test_without_a_replay_the_critic_learns_from_the_window(batch):
    value = ValueLearningConfig(capacity=0, minibatches=4, batch_size=batch, lr=0.01)
    agent = SHAC(Reach(), config(update=GradientUpdateConfig(lr=0.0), value=value, gamma=0.0))
    assert agent.value.replay is None
    losses = [report["critic_loss"] for report in agent.iterations(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize(("batch", "rounds"), [(13, 2), (14, 2), (28, 1), (1000, 1)])
def test_without_a_replay_no_state_comes_twice_before_all_came(batch, rounds):
    value = ValueLearningConfig(capacity=0, minibatches=5, batch_size=batch)
    agent = SHAC(Reach(), config(value=value))
    numbers = torch.arange(28.0).reshape(4, 7, 1).expand(-1, -1, AGENTS)
    agent.env.reset(seed=0)
    window = agent.env.collect(agent.predict, 4)
    window = replace(window, obs=numbers.unsqueeze(-1).expand_as(window.obs))
    agent.critic.each = lambda obs: obs[..., 0]
    batches = list(agent.value._minibatches(window, numbers))
    assert [len(target) for _, target in batches] == [min(batch, 28)] * 5
    assert all(torch.equal(value, target) for value, target in batches)
    first = torch.cat([target[:, 0] for _, target in batches[:rounds]]).tolist()
    assert len(set(first)) == len(first)


def test_a_training_that_is_over_says_so(caplog):
    agent = SHAC(Reach(), config()).learn(3 * 28)
    assert not caplog.records
    agent.learn(28)
    assert agent.env_steps == 84 and "of which 84 steps were taken before" in caplog.text
    agent.learn(85)
    assert agent.env_steps == 112 and len(caplog.records) == 1


@pytest.mark.parametrize(("limit", "ages"), [(32, range(0, 32, 4)), (31, range(31))])
def test_envs_are_staggered_by_windows_if_that_leaves_eight_ages(limit, ages):
    env = Reach(num_envs=997)
    env.max_steps = limit
    agent = SHAC(env, config(horizon=4))
    next(agent.iterations(1))
    found = (env.state()["steps"] - 4) % limit
    assert sorted(set(found.tolist())) == list(ages)


# --- where it begins ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "has", "articulated"),
    [
        ("gymnasium/Pendulum-v1", False, False),
        ("gymnasium/Reacher-v5", False, True),
        ("mujoco/Reacher-v5", False, True),
        ("games/climbing", False, False),
        ("vmas/navigation", True, False),
    ],
)
def test_the_default_has_ppos_part_in_it_whatever_the_env(name, has, articulated):
    bare = make(name, num_envs=2)
    assert bare.native_gradients == ({"dynamics", "reward"} if has else set())
    env = LearnedDiffWrapper(bare)
    assert env.native_gradients == bare.native_gradients
    assert SHAC(env).config == SHACConfig.hybrid(2, articulated=articulated)
    update = SHAC(env).config.update
    assert (update.weight, update.weight_steps) == ((1.0, 200_000) if articulated else (0.5, None))
    assert env.config.termination
    assert not LearnedDiffWrapper(bare, config=SurrogateConfig()).config.termination
    assert SHAC(env, SHACConfig(horizon=5)).config.horizon == 5


@pytest.mark.parametrize(
    ("copies", "horizon", "batch_size"), [(1, 128, 256), (64, 32, 256), (256, 32, 1024)]
)
def test_default_windows_have_about_2048_steps(copies, horizon, batch_size):
    config = SHACConfig.hybrid(copies)
    assert (config.horizon, config.update.ppo.batch_size) == (horizon, batch_size)


def test_on_native_gradients_the_horizon_adapts_by_default():
    env = make("diffsurrogate/cartpole-swingup", num_envs=2, differentiable=True)
    assert SHAC(env).config == SHACConfig.hybrid(2, learned=False)


def test_its_windows_are_no_longer_than_a_world_model_reaches():
    config = SurrogateConfig(dynamics=ActionWorldModelConfig(), loop="open")
    env = LearnedDiffWrapper(make("gymnasium/Pendulum-v1", num_envs=2), config=config)
    agent = SHAC(env)
    assert agent.config == replace(SHACConfig.hybrid(2), horizon=env.max_horizon)
    agent.learn(total_steps=2 * agent.config.horizon)
    assert agent.skipped == 0


def test_the_default_divides_its_windows_for_any_number_of_copies():
    windows = {count: SHACConfig.hybrid(count).horizon for count in range(1, 200)}
    assert all(horizon % 4 == 0 and 32 <= horizon <= 128 for horizon in windows.values())
    assert (windows[16], windows[24], windows[64]) == (128, 84, 32)
