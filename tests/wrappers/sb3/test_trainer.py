"""Stable-Baselines3's PPO in our run loop: its numbers, its randomness, its interruptions."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO as TheirPPO
from torch import Tensor
from toys.reach import AGENTS, ENVS, OBS, Reach

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.sb3.config import SB3Config
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy
from diffsurrogate.wrappers.sb3.trainer import SB3Trainer


def home(num_envs: int = ENVS) -> MultiAgentVectorEnv:
    return Reach(num_envs=num_envs, differentiable=False)


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=5)


def cartpole(num_envs: int = ENVS, **kwargs: Any) -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=num_envs, **kwargs)


def settings(**kwargs: Any) -> SB3Config:
    """Rollouts of 28 states, minibatches of 13, the last one smaller."""
    return SB3Config(
        **({"horizon": 4, "batch_size": 13, "epochs": 2, "hidden": (8,), "joint": False} | kwargs)
    )


def parameters(agent: SB3Trainer) -> dict[str, Tensor]:
    policy = agent.model.policy.state_dict()
    return {name: value.clone() for name, value in policy.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- the same numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_it_learns_what_stable_baselines_learns(joint):
    """From the same weights and random streams, by its own `learn` on the same episodes."""
    agent = SB3Trainer(
        dispersion(), settings(joint=joint, normalise=False, randomise_episode_phase=False), seed=5
    )
    vec = SB3VecEnv(dispersion(), joint=joint)
    slots = ENVS * (1 if joint else AGENTS)
    model = TheirPPO(
        "MlpPolicy",
        vec,
        learning_rate=1e-3,
        n_steps=4,
        batch_size=4 * slots,  # the whole rollout
        n_epochs=1,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )
    model.policy.load_state_dict(agent.model.policy.state_dict())
    with agent._random.in_force():
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    agent.model.n_epochs, agent.model.batch_size = 1, 4 * slots
    agent.learn(3 * 28)
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    vec.seed(5)
    model.learn(3 * 4 * slots)
    assert same(parameters(agent), dict(model.policy.state_dict()))
    obs, _ = dispersion().reset(seed=1)
    assert torch.equal(agent.predict(obs), as_policy(model, dispersion())(obs))


@pytest.mark.parametrize("normalise", [False, True])
def test_metrics_are_of_the_env_not_of_what_was_normalised(normalise):
    """Every agent of Corner earns 1, 2, 3; envs end at time limits of 8 and 4 steps."""

    class Rich(Reach):
        def reward(self, *args: Any) -> Tensor:
            return torch.tensor([1.0, 2.0, 3.0]).expand(self.num_envs, AGENTS)

    for joint in (False, True):
        config = settings(joint=joint, normalise=normalise, randomise_episode_phase=False)
        reports = list(SB3Trainer(Rich(differentiable=False), config).iterations(3))
        assert [report["reward"] for report in reports] == [pytest.approx(2.0)] * 3
        assert [report["episodes_ended"] for report in reports] == [0.0, 7.0, 0.0]
        assert [report["episodes_terminated"] for report in reports] == [0.0] * 3
        assert [report["env_steps"] for report in reports] == [28.0, 56.0, 84.0]
        names = {"clipped_loss", "critic_loss", "kl", "clipped_share", "update_cpu_seconds"}
        assert names <= reports[-1].keys()
        for report in reports:
            assert all(np.isfinite(value) for value in report.values())


def test_terminations_are_told_from_time_limits():
    agent = SB3Trainer(cartpole(max_steps=17), settings(horizon=40, randomise_episode_phase=False))
    (report,) = agent.iterations(1)
    assert 0 < report["episodes_terminated"] < report["episodes_ended"]


def test_episodes_are_staggered_and_the_rate_falls_if_asked():
    agent = SB3Trainer(home(num_envs=61), settings(lr_schedule="linear", lr=0.1))
    rates, ends = [], []
    for report in agent.iterations(4):
        rates.append(agent.model.policy.optimizer.param_groups[0]["lr"])
        ends.append(report["episodes_ended"])
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert ends != [0.0, 61.0, 0.0, 61.0]


def test_the_first_deviation_is_the_one_asked_for():
    """Of normalised actions: Pendulum's torque is in [-2, 2]."""
    pendulum = make("gymnasium/Pendulum-v1", num_envs=2)
    for std, expected in ((0.3, 0.6), (None, 1.0)):
        policy = SB3Trainer(pendulum, settings(std=std, joint=True)).model.policy
        torch.testing.assert_close(policy.log_std.exp(), torch.tensor([expected]))


# --- randomness --------------------------------------------------------------------------------


def test_the_seed_decides_everything_and_global_streams_nothing():
    def trained(seed: int, around: int) -> dict[str, Tensor]:
        torch.manual_seed(around)
        np.random.seed(around)
        states = torch.get_rng_state(), np.random.get_state()
        agent = SB3Trainer(dispersion(), settings(), seed=seed).learn(84)
        agent.predict(agent.env.current_obs, deterministic=False)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1][1]).all()
        assert np.random.get_state()[2:] == states[1][2:]
        return parameters(agent)

    assert same(trained(1, around=0), trained(1, around=5))
    assert not same(trained(1, around=0), trained(2, around=0))


def test_sampling_actions_leaves_the_training_alone():
    def look(agent: SB3Trainer, metrics: dict[str, float]) -> None:
        agent.predict(torch.zeros(ENVS, AGENTS, OBS), deterministic=False)

    watched, alone = (SB3Trainer(home(), settings()) for _ in range(2))
    assert same(parameters(watched.learn(84, look)), parameters(alone.learn(84)))


@pytest.mark.parametrize("leading", [(ENVS,), (), (2, ENVS)])
@pytest.mark.parametrize("joint", [False, True])
def test_predictions_are_in_the_box(leading, joint):
    agent = SB3Trainer(home(), settings(joint=joint)).learn(56)
    obs = 3 * torch.randn(*leading, AGENTS, OBS)
    mean, sample = agent.predict(obs), agent.predict(obs, deterministic=False)
    for action in (mean, sample):
        assert action.shape == (*leading, AGENTS, 2)
        assert action.abs().max() <= 1
    assert torch.equal(mean, agent.predict(obs))
    assert not torch.equal(sample, agent.predict(obs, deterministic=False))
    with pytest.raises(UsageError, match=r"\(\.\.\., 3, 5\)"):
        agent.predict(torch.zeros(ENVS, AGENTS, OBS + 1))


# --- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [home, dispersion])
@pytest.mark.parametrize(
    "kwargs", [{}, {"normalise": False}, {"joint": True, "lr_schedule": "linear"}]
)
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, make_env, kwargs):
    path, config = tmp_path / "agent.pt", settings(**kwargs)
    unbroken, broken = (SB3Trainer(make_env(), config, seed=3) for _ in range(2))
    unbroken.learn(5 * 28)
    broken.learn(5 * 28, lambda agent, metrics: agent.iteration < 3).save(path)
    env = make_env()
    env.reset(seed=11)
    loaded = SB3Trainer.load(path, env)
    assert (loaded.iteration, loaded.seed, loaded.config) == (3, 3, config)
    assert same(parameters(loaded), parameters(broken))
    obs = broken.env.current_obs
    for deterministic in (True, False):
        assert torch.equal(loaded.predict(obs, deterministic), broken.predict(obs, deterministic))
    loaded.learn(5 * 28)
    assert same(parameters(loaded), parameters(unbroken))
    assert not same(parameters(loaded), parameters(broken))
    assert torch.equal(loaded.env.current_obs, unbroken.env.current_obs)


def test_an_env_that_saves_no_state_starts_new_episodes(tmp_path):
    agent = SB3Trainer(cartpole(), settings()).learn(84)
    agent.save(tmp_path / "agent.pt")
    loaded = SB3Trainer.load(tmp_path / "agent.pt", cartpole())
    assert same(parameters(loaded), parameters(agent))
    assert loaded.env.current_obs.abs().max() < 0.05  # CartPole's start
    assert loaded.learn(112).iteration == 4


@pytest.mark.parametrize(
    "other",
    [
        lambda: (Reach(agents=2), settings()),
        lambda: (Reach(num_envs=11), settings()),
        lambda: (home(), settings(hidden=(9,))),
        lambda: (home(), settings(normalise=False)),
        lambda: (cartpole(), settings()),
    ],
    ids=["agents", "envs", "widths", "normalise", "choices"],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, other):
    SB3Trainer(home(), settings()).learn(28).save(tmp_path / "agent.pt")
    env, config = other()
    with pytest.raises(UsageError):
        SB3Trainer.load(tmp_path / "agent.pt", env, config)


# --- learning ----------------------------------------------------------------------------------


def test_points_learn_to_go_home():
    """Standing still costs 5.3 in 8 steps, going straight home 0.08; per agent."""
    env = home(num_envs=61)
    config = SB3Config(horizon=8, batch_size=366, epochs=8, gamma=0.9, joint=False, lr=3e-3)
    agent = SB3Trainer(env, config, seed=1)
    before = evaluate(agent.predict, home(num_envs=101)).mean_return / AGENTS
    agent.learn(30 * 61 * 8)
    after = evaluate(agent.predict, home(num_envs=101)).mean_return / AGENTS
    assert before < -3
    assert after > -1.5
