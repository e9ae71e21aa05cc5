"""Gymnasium's tools see our envs as vector envs of their own, with our numbers."""

import sys
import types
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.utils.passive_env_checker import check_obs, check_space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector
from toys.choices import Choices
from toys.reach import Reach

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.gymnasium.export import as_gymnasium
from diffsurrogate.wrappers.team_reward import TeamReward

ENVS, AGENTS, LIMIT = 5, 3, 31


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=LIMIT)


def cartpole(seed: int = 0, name: str = "CartPole-v1") -> MultiAgentVectorEnv:
    return make(f"gymnasium/{name}", num_envs=ENVS, max_steps=13, seed=seed)


def theirs(seed: int, name: str = "CartPole-v1") -> SyncVectorEnv:
    """Gymnasium's own, reset with the seeds of `cartpole(seed)`."""
    envs = SyncVectorEnv(
        [lambda: gymnasium.make(name, max_episode_steps=13)] * ENVS,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    envs.reset(seed=env_seeds(seed, ENVS))
    return envs


def home() -> MultiAgentVectorEnv:
    """Another reward for every agent in every step, and the env's own gradients on."""
    return Reach(num_envs=ENVS, agents=AGENTS)


def moves(step: int) -> np.ndarray:
    """Actions (env, agent, 2), some outside of the box of ±1, held long enough to get somewhere."""
    rng = np.random.default_rng(step // LIMIT)
    return rng.uniform(-1.5, 1.5, (ENVS, AGENTS, 2)).astype(np.float32)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("reward", ["sum", "mean"])
@pytest.mark.parametrize("make_env", [dispersion, home])
def test_numbers_are_the_envs_own(make_env, flatten, reward):
    envs, env = as_gymnasium(make_env(), flatten=flatten, reward=reward), make_env()
    teams = TeamReward(make_env())
    teams.reset(seed=11)
    shape = (ENVS, AGENTS * env.obs_dim) if flatten else (ENVS, AGENTS, env.obs_dim)
    assert envs.observation_space.shape == shape
    assert envs.single_action_space.shape == ((AGENTS * 2,) if flatten else (AGENTS, 2))
    rows, info = envs.reset(seed=11)
    obs, _ = env.reset(seed=11)
    assert info == {}
    ends = rewards = 0
    for step in range(2 * LIMIT):
        assert isinstance(rows, np.ndarray)
        assert (rows == obs.numpy().reshape(shape)).all()
        actions = moves(step)
        given = actions.reshape(envs.action_space.shape)
        rows, team, terminated, truncated, info = envs.step(given)
        obs, each, ended, cut, ours = env.step(torch.tensor(actions))
        expected = each.sum(-1) if reward == "sum" else each.mean(-1)
        assert team.dtype == np.float64
        assert team.tolist() == expected.tolist()
        assert teams.step(torch.tensor(actions))[1].tolist() == each.sum(-1).tolist()
        assert terminated.dtype == truncated.dtype == bool
        assert terminated.tolist() == ended.tolist()
        assert truncated.tolist() == cut.tolist()
        assert ("final_obs" in info) == bool((ended | cut).any())
        for index in np.flatnonzero(terminated | truncated):
            last = ours["final_obs"][index].numpy().reshape(shape[1:])
            assert (info["final_obs"][index] == last).all()
            ends += 1
        rewards += np.count_nonzero(team)
    assert ends == ENVS * (2 * LIMIT // env.max_steps)
    assert rewards > 2


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_whole_run_is_that_of_gymnasiums_own_vector_env_infos_included(name):
    """And so are the numbers and ends of our adapter, which is what is exported."""
    envs, reference = as_gymnasium(cartpole(4, name)), theirs(4, name)
    envs.reset(seed=4)
    assert envs.single_action_space == reference.single_action_space
    assert envs.action_space == reference.action_space
    rng = np.random.default_rng(0)
    ends = np.zeros(2, int)
    for _ in range(60):
        if name == "CartPole-v1":
            actions = (rng.random(ENVS) < 0.85).astype(np.int64)
            actions[0] = _ % 2  # this one stays up until its time is over
        else:
            actions = rng.uniform(-3, 3, (ENVS, 1)).astype(np.float32)  # the box is ±2
        (obs, reward, *rest), (their_obs, earned, *others) = (
            one.step(actions) for one in (envs, reference)
        )
        assert data_equivalence((obs, *rest), (their_obs, *others), exact=True)
        assert (reward == earned.astype(np.float32)).all()
        ends += [rest[0].sum(), rest[1].sum()]
    assert (ends > 0).tolist() == [name == "CartPole-v1", True]


def test_what_it_says_of_itself_passes_gymnasiums_checks():
    for env in (dispersion(), cartpole(), Choices()):
        envs = as_gymnasium(env)
        assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        check_space(envs.single_observation_space, "observation", lambda space: None)
        check_space(envs.single_action_space, "action", lambda space: None)
        obs, _ = envs.reset(seed=1)
        assert envs.np_random_seed == 1
        assert envs.observation_space.contains(obs)
        for row in obs:
            check_obs(row, envs.single_observation_space, "reset")
        again, _ = envs.reset(seed=1)
        assert (obs == again).all()
        envs.action_space.seed(0)
        obs, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(obs)


def test_arrays_are_the_callers_to_keep():
    envs = as_gymnasium(dispersion())
    first, _ = envs.reset(seed=0)
    kept = first.copy()
    first[:] = 99
    second, *_ = envs.step(moves(0).reshape(ENVS, -1))
    assert not (second == 99).any()
    again = second.copy()
    envs.step(moves(1).reshape(ENVS, -1))
    assert (second == again).all()
    assert (envs.reset(seed=0)[0] == kept).all()


@pytest.mark.parametrize(
    ("agents", "flatten", "space"),
    [
        (3, True, spaces.MultiDiscrete([4, 4, 4])),
        (3, False, spaces.MultiDiscrete([4, 4, 4])),
        (1, True, spaces.Discrete(4)),
        (1, False, spaces.MultiDiscrete([4])),
    ],
)
def test_choices_stay_choices(agents, flatten, space):
    envs = as_gymnasium(Choices(agents=agents, choices=4), flatten=flatten)
    assert envs.single_action_space == space
    envs.reset(seed=0)
    chosen = np.arange(ENVS * agents).reshape(envs.action_space.shape) % 4
    _, reward, *_ = envs.step(chosen)
    assert reward.tolist() == chosen.reshape(ENVS, agents).sum(1).tolist()


def test_padded_choices_are_none():
    env = Choices(choices=4)
    env.valid_action_dims[1, 2:] = False  # as an adapter marks an agent with 2 actions only
    assert as_gymnasium(env).single_action_space == spaces.MultiDiscrete([4, 2, 4])


# --- Gymnasium's vector wrappers -----------------------------------------------------------------


def test_its_action_wrappers_work():
    plain, env = as_gymnasium(dispersion()), as_gymnasium(dispersion())
    scaled = vector.ClipAction(vector.RescaleAction(env, np.float32(0), np.float32(1)))
    assert (scaled.env.single_action_space.low == 0).all()
    plain.reset(seed=1)
    scaled.reset(seed=1)
    for step in range(2 * LIMIT):
        actions = moves(step).reshape(ENVS, -1)
        got = scaled.step((actions + 1) / 2)
        expected = plain.step(actions)
        assert got[0] == pytest.approx(expected[0], abs=1e-4)


def test_final_observations_as_one_array_have_every_env():
    envs, env = as_gymnasium(cartpole(), final_obs="array"), cartpole()
    envs.reset(seed=0)
    env.reset(seed=0)
    mixed = 0
    for step in range(30):
        push = np.array([1, step % 2, 1, step % 2, 1])
        *_, info = envs.step(push)
        one_hot = torch.nn.functional.one_hot(torch.tensor(push), 2).float()[:, None]
        *_, ours = env.step(one_hot)
        if info:
            assert (info["final_obs"] == ours["final_obs"].flatten(1).numpy()).all()
            assert info["_final_obs"].tolist() == ours["_final_obs"].tolist()
            mixed += not info["_final_obs"].all()
    assert mixed > 0


@pytest.mark.filterwarnings("ignore:.*same-step:UserWarning")
def test_its_videos_show_our_pictures(monkeypatch, tmp_path):
    """Moviepy, which writes the file, is stood in for."""
    clips: list[list[np.ndarray]] = []
    module: Any = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = lambda frames, fps: SimpleNamespace(
        write_videofile=lambda path, logger: clips.append(list(frames))
    )
    for name in ("moviepy", "moviepy.video", "moviepy.video.io", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    envs = as_gymnasium(dispersion())
    video = vector.RecordVideo(envs, str(tmp_path / "films"), video_length=2)
    video.reset(seed=0)
    frames = envs.render()
    assert isinstance(frames, tuple)
    assert [frame.shape for frame in frames] == [(400, 400, 3)] * ENVS
    for step in range(2):
        video.step(moves(step).reshape(ENVS, -1))
    video.close()
    ((shown, *later),) = clips
    assert (shown == np.concatenate(frames, axis=1)).all()  # 5 envs, side by side
    assert len(later) == 2
    assert not (later[0] == shown).all()
    assert envs.env.closed


# --- misuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"reward": "max"}, "'sum', 'mean'"),
        ({"final_obs": "list"}, "'objects', 'array'"),
        ({"autoreset": "never"}, "'same_step', 'next_step'"),
    ],
)
def test_an_unknown_option_is_refused(options, advice):
    with pytest.raises(UsageError, match=advice):
        as_gymnasium(Choices(), **options)


@pytest.mark.parametrize(
    ("actions", "advice"),
    [
        (np.zeros((ENVS, 2)), r"shape \(5, 2\); \(5, 3\) is needed"),
        (np.full((ENVS, AGENTS), 4), "counted from 0"),
        (np.full((ENVS, AGENTS), -1), "counted from 0"),
        (np.full((ENVS, AGENTS), 0.5), "whole numbers"),
        (np.full((ENVS, AGENTS), np.nan), "whole numbers"),
    ],
)
def test_choices_that_do_not_fit_are_refused(actions, advice):
    envs = as_gymnasium(Choices(choices=4))
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=advice):
        envs.step(actions)


def test_other_misuse_is_refused():
    envs = as_gymnasium(dispersion())
    with pytest.raises(UsageError, match="not reset"):
        envs.step(moves(0).reshape(ENVS, -1))
    envs.reset(seed=0)
    with pytest.raises(UsageError, match="not finite"):
        envs.step(np.full((ENVS, AGENTS * 2), np.nan))
    with pytest.raises(UsageError, match="make the env first"):
        as_gymnasium("paper/dispersion")
