"""What every trainer promises: `learn`, `predict`, metrics, seeds, and what it refuses."""

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor
from toys.reach import ACT, AGENTS, ENVS, OBS, Reach
from toys.trainers import TRAINERS, WINDOW, Case, plain_reach, stable_baselines, what_differs

from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.training.trainer import Trainer

every_trainer = pytest.mark.parametrize("case", TRAINERS.values(), ids=list(TRAINERS))

# --- learn -------------------------------------------------------------------------------------


@every_trainer
def test_steps_are_counted_over_envs_and_rounded_up_to_whole_windows(case):
    """A window is 7 envs of 4 steps; totals include what was learned before."""
    agent = case.make()
    for total_steps, iterations in {1: 1, 28: 1, 29: 2, 56: 2, 57: 3}.items():
        assert agent.learn(total_steps).iteration == iterations
        assert agent.env_steps == 28 * iterations
    for steps in (0, -3):
        with pytest.raises(UsageError, match=f"total_steps is {steps}"):
            agent.learn(steps)


def test_a_number_of_steps_is_needed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    agent: Any = TRAINERS["ppo"].make()
    for steps in (math.inf, math.nan, "28"):
        with pytest.raises(UsageError, match=f"total_steps is {steps!r}"):
            agent.learn(steps)
    assert agent.learn(1e2).env_steps == 112


@pytest.mark.parametrize("seed", [-1, 1.5, "3"])
def test_a_seed_is_a_whole_number(seed, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=f"seed is {seed!r}; give a whole number"):
        TRAINERS["ppo"].make(seed=seed)


@every_trainer
def test_only_false_from_the_callback_stops(case):
    agent, seen = case.make(), []

    def callback(trainer: Trainer, metrics: dict[str, float]) -> bool | None:
        assert trainer is agent
        seen.append(metrics["env_steps"])
        return {2: True, 3: False}.get(trainer.iteration)

    assert agent.learn(5 * WINDOW, callback).iteration == 3
    assert seen == [28.0, 56.0, 84.0]


def pickled(agent: Trainer) -> Trainer:
    again: Trainer = pickle.loads(pickle.dumps(agent))
    return again


@pytest.mark.parametrize("name", [name for name in TRAINERS if name != "sb3"])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_between_windows_goes_on_alike(name, copied):
    """And the original as if there were none."""
    new, agent = (TRAINERS[name].make() for _ in range(2))
    assert not what_differs(copied(new).learn(2 * WINDOW), agent.learn(2 * WINDOW))
    other = copied(agent)
    before = copy.deepcopy(agent.state_dict())
    other.learn(3 * WINDOW)
    assert not what_differs(agent, before)
    assert not what_differs(agent.learn(3 * WINDOW), other)


@pytest.mark.parametrize("name", ["shac++", "ppo"])
@pytest.mark.parametrize("env_id", ["paper/dispersion", "gymnasium/Pendulum-v1"])
def test_a_pickled_trainer_goes_on_in_envs_of_other_libraries(name, env_id):
    agent = TRAINERS[name].make(TRAINERS[name].wrap(make(env_id, num_envs=ENVS, max_steps=9)))
    again = pickled(agent.learn(2 * WINDOW))
    assert not what_differs(agent.learn(3 * WINDOW), again.learn(3 * WINDOW))


def test_sb3s_ppo_says_what_to_do_instead_of_a_copy():
    agent = TRAINERS["sb3"].make()
    for copied in (copy.deepcopy, pickled):
        with pytest.raises(UsageError, match=r"agent.save\(path\) and go on by SB3PPO.load"):
            copied(agent)


@every_trainer
def test_metrics_are_finite_floats_and_count_episodes(case):
    """Episodes of 8 steps end with every second window."""
    reports = list(case.make(randomise_episode_phase=False).iterations(2))
    common = {"reward", "critic_loss", "update_cpu_seconds"}
    models = {"reward_loss", "reward_error", "cached_transitions"}
    assert common | (models if case.wrap is not Case.wrap else set()) <= reports[-1].keys()
    for report in reports:
        assert all(type(value) is float and math.isfinite(value) for value in report.values())
    assert [report["env_steps"] for report in reports] == [28.0, 56.0]
    assert [report["episodes_ended"] for report in reports] == [0.0, 7.0]
    assert [report["episodes_terminated"] for report in reports] == [0.0, 0.0]


@every_trainer
def test_episode_phases_are_spread_unless_told_otherwise(case):
    (report,) = case.make().iterations(1)
    assert 0 < report["episodes_ended"] < ENVS


@pytest.mark.parametrize("name", ["ppo", "ippo", "mappo", "recurrent mappo", "sb3"])
def test_terminations_are_told_from_time_limits_on_discrete_actions(name):
    case = TRAINERS[name]
    env = make("gymnasium/CartPole-v1", num_envs=ENVS, max_steps=17)
    (report,) = case.make(env, horizon=40, randomise_episode_phase=False).iterations(1)
    assert 0 < report["episodes_terminated"] < report["episodes_ended"]


def test_a_progress_bar_may_be_shown(capsys):
    TRAINERS["ppo"].make().learn(2 * WINDOW, progress_bar=True)
    assert "reward=" in capsys.readouterr().err


# --- predict -----------------------------------------------------------------------------------


PREDICTING = TRAINERS | {
    "sb3, joint": replace(TRAINERS["sb3"], config=stable_baselines(joint=True)),
}


@pytest.fixture(scope="module", params=PREDICTING.values(), ids=list(PREDICTING))
def trained(request: pytest.FixtureRequest) -> tuple[Case, Trainer]:
    """Return a trainer whose actions often lie outside the box."""
    case, changes = request.param, {}
    if hasattr(case.config, "actor"):
        changes["actor"] = replace(case.config.actor, std=3.0)
    return case, case.make(**changes).learn(2 * WINDOW)


@pytest.mark.parametrize("leading", [(ENVS,), (), (2, ENVS)])
def test_predictions_have_the_shape_of_actions_in_the_box_and_no_graph(trained, leading):
    case, agent = trained
    obs = 3 * torch.randn(*leading, AGENTS, OBS)
    if case.recurrent:
        for ask in (agent.predict, agent.actor):
            with pytest.raises(UsageError, match=r"policy\(env\)"):
                ask(obs)
        return
    mean, sample, other = agent.predict(obs), agent.predict(obs, False), agent.predict(obs, False)
    for action in (mean, sample):
        assert action.shape == (*leading, AGENTS, ACT)
        assert action.abs().max() <= 1
        assert not action.requires_grad
    assert torch.equal(mean, agent.predict(obs, deterministic=True))
    assert not torch.equal(sample, other)


def test_observations_may_be_of_any_kind_of_number(trained, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    case, agent = trained
    if case.recurrent:
        return
    obs = torch.randn(ENVS, AGENTS, OBS)
    action = agent.predict(obs)
    assert torch.equal(agent.predict(obs.double()), action)
    assert torch.equal(agent.predict(obs > 0), agent.predict((obs > 0).float()))
    backwards = obs.numpy()[..., ::-1]
    assert np.array_equal(agent.predict(backwards), agent.predict(backwards.copy()))
    for wrong in (None, "obs", np.array([None])):
        with pytest.raises(UsageError, match=r"obs is a .*numbers are needed"):
            agent.predict(wrong)


def test_a_policy_is_deterministic_and_refuses_other_shapes(trained):
    case, agent = trained
    actions = []
    for _ in range(2):
        env = plain_reach()
        obs, _ = env.reset(seed=1)
        actions.append(agent.policy(env)(obs))
    assert torch.equal(*actions)
    assert actions[0].abs().max() <= 1
    if not case.recurrent:
        assert torch.equal(actions[0], agent.predict(obs))
    with pytest.raises(UsageError, match=r"\(\.\.\., 3, 5\)"):
        agent.predict(torch.zeros(ENVS, AGENTS, OBS + 1))


# --- seeds -------------------------------------------------------------------------------------


@every_trainer
def test_the_seed_decides_everything_and_nothing_around_does(case):
    """Neither the global random streams nor other envs; and the streams are left alone."""

    def trained(seed: int, around: int) -> Trainer:
        torch.manual_seed(around)
        np.random.seed(around)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        agent = case.make(seed=seed)
        for update in (1, 2):
            if around:
                plain_reach().reset(seed=update)
            agent.learn(update * WINDOW)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()
        return agent

    one = trained(1, around=0)
    assert not what_differs(one, trained(1, around=5))
    assert what_differs(one, trained(2, around=0))


@pytest.mark.parametrize("name", [n for n, case in TRAINERS.items() if not case.recurrent])
def test_sampling_actions_between_updates_changes_nothing(name):
    def look(agent: Trainer, metrics: dict[str, float]) -> None:
        agent.predict(torch.zeros(ENVS, AGENTS, OBS), deterministic=False)

    watched, alone = (TRAINERS[name].make() for _ in range(2))
    watched.learn(2 * WINDOW, look)
    alone.learn(2 * WINDOW)
    assert all("samples" in name for name in what_differs(watched, alone))


# --- gradients that are not finite ---------------------------------------------------------------


class Spike(Reach):
    """Infinite rewards of some envs while broken."""

    first = 0

    def reward(self, state: Any, action: Tensor, next_state: Any) -> Tensor:
        reward = super().reward(state, action, next_state)
        late = torch.arange(ENVS)[:, None] >= self.first
        return torch.where(late, -torch.inf, reward) if self.broken else reward


@pytest.mark.parametrize("name", [name for name in TRAINERS if not name.startswith("sb3")])
@pytest.mark.parametrize("broken", [1, ENVS])
def test_infinite_rewards_cost_the_share_of_their_envs(name, broken):
    """Of one env out of seven, its window; of all, the update, which is skipped and counted."""
    case, seen, weights = TRAINERS[name], [], []
    env = Spike(differentiable=case.differentiable)
    env.first = ENVS - broken
    agent = case.make(case.wrap(env))

    def callback(trainer: Trainer, metrics: dict[str, float]) -> None:
        seen.append((metrics["broken_copies"], metrics["skipped_updates"]))
        weights.append(torch.nn.utils.parameters_to_vector(trainer.actor.parameters()).clone())
        env.broken = trainer.iteration == 2

    with pytest.warns(RuntimeWarning, match=f"the reward of env {env.first} at step 0 .* is -inf"):
        agent.learn(4 * WINDOW, callback)
    assert seen == [(0, 0)] * 2 + [(broken, broken == ENVS)] * 2
    assert torch.equal(weights[1], weights[2]) == (broken == ENVS)
    assert not torch.equal(weights[2], weights[3])
    for part in (agent.actor, agent.critic):
        assert all(parameter.isfinite().all() for parameter in part.parameters())


def test_an_env_none_of_whose_copies_is_ever_finite_ends_the_training():
    env = Spike()
    agent = TRAINERS["ppo"].make(env)

    def break_all(trainer: Trainer, metrics: dict[str, float]) -> None:
        env.broken = True

    advice = "last 10 updates no env gave finite values only; the reward of env 0 .*; mend the env"
    with pytest.warns(RuntimeWarning, match="left out"), pytest.raises(UsageError, match=advice):
        agent.learn(20 * WINDOW, break_all)
    assert agent.iteration == 10


class Cliff(Reach):
    """The reward's slope is infinite in one env, its value is not."""

    def reward(self, state: Any, action: Tensor, next_state: Any) -> Tensor:
        reward = super().reward(state, action, next_state)
        cliff = (0 * action[3:4, :, 0]).sqrt()
        return torch.cat([reward[:3], reward[3:4] + cliff, reward[4:]])


def test_an_infinite_gradient_costs_the_share_of_its_env():
    agent, reports = TRAINERS["shac"].make(Cliff(differentiable=True)), []
    before = torch.nn.utils.parameters_to_vector(agent.actor.parameters()).clone()
    agent.learn(WINDOW, lambda trainer, metrics: reports.append(metrics))
    assert reports[0]["skipped_updates"] == 0
    assert reports[0]["dropped_gradients"] > 0
    after = torch.nn.utils.parameters_to_vector(agent.actor.parameters())
    assert after.isfinite().all() and not torch.equal(after, before)


@every_trainer
def test_one_env_and_windows_of_one_step_are_enough(case):
    """A minibatch of one sample has no deviation."""
    agent = case.make(case.env(num_envs=1), horizon=1)
    reports: list[dict[str, float]] = []
    agent.learn(3, lambda trainer, metrics: reports.append(metrics))
    assert all(math.isfinite(value) for report in reports for value in report.values())


def test_gradients_that_are_never_finite_are_warned_of():
    env = Reach()
    env.broken = True
    TRAINERS["shac"].make(env).learn(9 * WINDOW)
    with pytest.warns(RuntimeWarning, match=r"in each of the last 10 updates a gradient was not"):
        TRAINERS["shac"].make(env).learn(10 * WINDOW)


# --- what is refused -----------------------------------------------------------------------------


@every_trainer
def test_the_configuration_of_another_trainer_is_refused(case, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    others = {type(other.config): other.config for other in TRAINERS.values()}
    for kind, config in others.items():
        if kind is not case.kind.config_type:
            with pytest.raises(UsageError, match=f"{case.kind.__name__} is set by"):
                case.kind(case.env(), config)


@pytest.mark.parametrize("name", ["shac", "ppo", "mappo", "bppo"])
def test_an_env_that_was_not_adapted_is_refused(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    kind = TRAINERS[name].kind.__name__
    advice = r"; (adapt it: as_multi_agent\(env\)|wrap it: SHAC\(LearnedDiffWrapper\(env\)\))"
    with pytest.raises(UsageError, match=f"{kind} cannot train on a NoneType{advice}"):
        TRAINERS[name].kind(None)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (Reach, r"on the class Reach; adapt it: as_multi_agent\(Reach\)"),
        ("gymnasium/Pendulum-v1", r"on the name '.*'; give make\('gymnasium/Pendulum-v1'\)"),
    ],
)
def test_what_is_no_env_is_refused_wherever_it_is_given(given, advice, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=f"PPO cannot train {advice}"):
        TRAINERS["ppo"].kind(given)
    with pytest.raises(UsageError, match=f"PPO cannot be loaded {advice}"):
        TRAINERS["ppo"].kind.load(tmp_path / "agent.pt", given)


def test_a_file_of_another_trainer_is_refused_by_its_name(tmp_path):
    TRAINERS["shac++"].make().save(tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"agent.pt is of SHAC, not of PPO; load it by SHAC.load"):
        TRAINERS["ppo"].kind.load(tmp_path / "agent.pt", TRAINERS["ppo"].env())
