"""Gymnasium's tools see our envs as vector envs of their own, with our numbers."""

import sys
import types
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
from torch import Tensor
from toys.reach import Reach

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.gymnasium.export import as_gymnasium
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.team_reward import TeamReward

ENVS, AGENTS, LIMIT = 5, 3, 31


class Choices(TorchEnv):
    """Agents choose among 4 numbers; the choice is the reward."""

    discrete_actions = True

    def __init__(self, agents: int = AGENTS) -> None:
        names = [f"agent_{i}" for i in range(agents)]
        super().__init__(num_envs=ENVS, agents=names, obs_dim=2, act_dim=4)

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.rand(count, self.num_agents, 2, generator=generator)}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + 0.0}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return action.argmax(-1).float()


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=LIMIT)


def cartpole(seed: int = 0) -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=ENVS, max_steps=13, seed=seed)


def theirs(seed: int) -> SyncVectorEnv:
    """Gymnasium's own, reset with the seeds of `cartpole(seed)`."""
    envs = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1", max_episode_steps=13)] * ENVS,
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


def test_the_sum_of_rewards_is_team_rewards():
    envs, team = as_gymnasium(home()), TeamReward(home())
    envs.reset(seed=2)
    team.reset(seed=2)
    seen = set()
    for step in range(17):
        _, ours, *_ = envs.step(moves(step).reshape(ENVS, -1))
        _, expected, *_ = team.step(torch.tensor(moves(step)))
        assert ours.tolist() == expected.tolist()
        seen |= set(ours.tolist())
    assert len(seen) == 17 * ENVS


def test_a_whole_run_is_that_of_gymnasiums_own_vector_env_infos_included():
    envs, reference = as_gymnasium(cartpole(seed=4)), theirs(seed=4)
    envs.reset(seed=4)
    assert envs.single_action_space == reference.single_action_space
    assert envs.action_space == reference.action_space
    rng = np.random.default_rng(0)
    ends = np.zeros(2, int)
    for _ in range(60):
        actions = (rng.random(ENVS) < 0.85).astype(np.int64)
        actions[0] = _ % 2  # this one stays up until its time is over
        got, expected = envs.step(actions), reference.step(actions)
        assert data_equivalence(got, expected, exact=True)
        ends += [got[2].sum(), got[3].sum()]
    assert (ends > 0).all()


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
    envs = as_gymnasium(Choices(agents), flatten=flatten)
    assert envs.single_action_space == space
    envs.reset(seed=0)
    chosen = np.arange(ENVS * agents).reshape(envs.action_space.shape) % 4
    _, reward, *_ = envs.step(chosen)
    assert reward.tolist() == chosen.reshape(ENVS, agents).sum(1).tolist()


def test_padded_choices_are_none():
    env = Choices()
    env.valid_action_dims[1, 2:] = False  # as an adapter marks an agent with 2 actions only
    assert as_gymnasium(env).single_action_space == spaces.MultiDiscrete([4, 2, 4])


def test_a_learned_env_is_exported_without_a_graph():
    env = LearnedDiffWrapper(dispersion())
    envs, bare = as_gymnasium(env), as_gymnasium(dispersion())
    envs.reset(seed=5)
    bare.reset(seed=5)
    for step in range(LIMIT):
        given = moves(step).reshape(ENVS, -1)
        assert data_equivalence(envs.step(given), bare.step(given), exact=True)
    assert not env.current_obs.requires_grad


def test_a_team_can_come_back_as_one_agent():
    env, same = as_multi_agent(as_gymnasium(dispersion())), dispersion()
    obs, _ = env.reset(seed=6)
    assert obs.shape == (ENVS, 1, AGENTS * same.obs_dim)
    same.reset(seed=6)
    for step in range(2 * LIMIT):
        action = torch.tensor(moves(step))
        obs, reward, _, cut, info = env.step(action.reshape(ENVS, 1, -1))
        expected, each, _, ended, ours = same.step(action)
        assert torch.equal(obs, expected.reshape(ENVS, 1, -1))
        assert torch.equal(reward, each.sum(-1, keepdim=True))
        assert torch.equal(cut, ended)
        assert torch.equal(info["final_obs"], ours["final_obs"].reshape(ENVS, 1, -1))


# --- Gymnasium's vector wrappers -----------------------------------------------------------------


def test_its_statistics_count_our_returns_and_lengths():
    envs, reference = as_gymnasium(cartpole(seed=1)), theirs(seed=1)
    envs, reference = (vector.RecordEpisodeStatistics(e) for e in (envs, reference))
    envs.reset(seed=1)
    for step in range(40):
        push = np.array([1, step % 2, 1, step % 2, 1])
        envs.step(push)
        reference.step(push)
    assert list(envs.return_queue) == list(reference.return_queue)
    assert list(envs.length_queue) == list(reference.length_queue)
    assert max(envs.length_queue) == 13
    assert envs.episode_count > ENVS


def test_its_reward_and_action_wrappers_work():
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
    normalised, same = (vector.NormalizeReward(e) for e in (as_gymnasium(cartpole()), theirs(0)))
    normalised.reset(seed=0)
    for _ in range(20):
        push = np.ones(ENVS, np.int64)
        assert (normalised.step(push)[1] == same.step(push)[1]).all()


def test_its_list_of_infos_has_what_each_env_ended_with():
    envs = vector.DictInfoToList(as_gymnasium(cartpole()))
    envs.reset(seed=0)
    for _ in range(13):
        *_, terminated, truncated, infos = envs.step(np.ones(ENVS, np.int64))
        for ended, info in zip(terminated | truncated, infos, strict=True):
            assert set(info) == ({"final_obs", "final_info"} if ended else set())
        assert not terminated.all() or infos[0]["final_obs"].shape == (4,)


@pytest.mark.parametrize("make_env", [lambda: as_gymnasium(cartpole()), lambda: theirs(0)])
def test_its_observation_wrappers_refuse_same_step_resets_of_anyone(make_env):
    """A later Gymnasium that takes them makes this fail: then say so in the docstring.

    With `autoreset="next_step"` they work: `test_reset_mask.py`.
    """
    with pytest.raises(ValueError, match="NEXT_STEP"):
        vector.NormalizeObservation(make_env())


def test_its_conversion_to_torch_takes_final_observations_as_one_array():
    pytest.importorskip("array_api_compat")
    envs = vector.NumpyToTorch(as_gymnasium(dispersion(), final_obs="array"))
    env = dispersion()
    rows, _ = envs.reset(seed=3)
    assert torch.equal(rows, env.reset(seed=3)[0].flatten(1))
    for step in range(LIMIT):
        actions = torch.tensor(moves(step))
        rows, reward, _, cut, info = envs.step(actions.flatten(1))
        obs, each, _, ended, ours = env.step(actions)
        assert torch.equal(rows, obs.flatten(1))
        assert reward.tolist() == each.sum(-1).tolist()
        assert torch.equal(cut, ended)
    assert torch.equal(info["final_obs"], ours["final_obs"].flatten(1))


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
    clips: list[list[np.ndarray]] = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: int) -> None:
            clips.append(list(frames))

        def write_videofile(self, path: str, logger: Any) -> None:
            assert path.endswith(".mp4")

    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = Clip
    monkeypatch.setitem(sys.modules, "moviepy.video.io.ImageSequenceClip", module)
    envs = as_gymnasium(dispersion())
    frames = envs.render()
    assert isinstance(frames, tuple)
    assert [frame.shape for frame in frames] == [(400, 400, 3)] * ENVS
    video = vector.RecordVideo(envs, str(tmp_path / "films"), video_length=2)
    video.reset(seed=0)
    first = np.concatenate(envs.render(), axis=1)
    video.step(moves(0).reshape(ENVS, -1))
    video.step(moves(1).reshape(ENVS, -1))
    video.close()
    ((shown, *later),) = clips
    assert (shown == first).all()  # 5 envs, side by side
    assert len(later) == 2
    assert not (later[0] == first).all()
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
    envs = as_gymnasium(Choices())
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
