"""Recorded data become windows without losing or inventing a step."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffsurrogate.data.recordings import record, windows_from_minari
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

OBS, ACT, AGENTS = 5, 2, 3


def episode(steps: int, agents: int | None = None, *, terminated: bool = False) -> SimpleNamespace:
    shape = (steps + 1, OBS) if agents is None else (steps + 1, agents, OBS)
    obs = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    end = np.zeros(steps, dtype=bool)
    end[-1] = True
    return SimpleNamespace(
        observations=obs,
        actions=np.ones((*shape[:-1], ACT))[:-1],
        rewards=np.arange(steps, dtype=np.float64),
        terminations=end & terminated,
        truncations=end & (not terminated),
    )


def test_an_episode_is_cut_into_windows_and_a_shorter_rest():
    windows = list(windows_from_minari([episode(17, terminated=True)], horizon=7))
    assert [w.horizon for w in windows] == [3, 7]  # 17 = 7 + 7 + 3
    rest, whole = windows
    assert whole.obs.shape == (7, 2, 1, OBS)
    assert rest.reward.flatten().tolist() == [14.0, 15.0, 16.0]
    assert rest.terminated.flatten().tolist() == [False, False, True]
    assert not rest.truncated.any()
    assert torch.equal(whole.next_obs[:-1], whole.obs[1:])
    assert whole.next_obs[-1, 0, 0, 0] == 7 * OBS  # the first feature of step 7


def test_agents_keep_their_axis_and_share_a_team_reward():
    (window,) = windows_from_minari([episode(7, AGENTS)], horizon=7)
    assert window.obs.shape == (7, 1, AGENTS, OBS)
    shares = torch.arange(7.0).unsqueeze(1).expand(7, AGENTS) / AGENTS  # t in all
    torch.testing.assert_close(window.reward[:, 0], shares)


def test_what_is_not_an_array_or_does_not_fit_is_refused():
    bad = episode(7)
    bad.observations = {"camera": np.zeros((8, OBS))}
    with pytest.raises(UsageError, match="flatten them first"):
        list(windows_from_minari([bad]))
    short = episode(7)
    short.rewards = short.rewards[:-1]
    with pytest.raises(UsageError, match="one more observation"):
        list(windows_from_minari([short]))


def test_minaris_own_episodes_become_windows():
    episode_data = pytest.importorskip("minari.dataset.episode_data")
    episodes = [
        episode_data.EpisodeData(id=number, **vars(episode(50)), infos={}) for number in range(4)
    ]
    rest, whole = windows_from_minari(episodes, horizon=32)
    assert (whole.horizon, rest.horizon) == (32, 18)
    assert whole.obs.shape == (32, 4, 1, OBS)
    assert rest.truncated[-1].all()


def test_recorded_windows_of_any_policy_warm_the_wrapper_up():
    bare = make("diffsurrogate/cartpole-swingup", num_envs=7)
    bare.reset(seed=1)
    generator = torch.Generator().manual_seed(0)

    def noise(obs: torch.Tensor) -> torch.Tensor:
        return 2 * torch.rand((7, 1, 1), generator=generator) - 1

    env = LearnedDiffWrapper(
        make("diffsurrogate/cartpole-swingup", num_envs=7),
        config=SurrogateConfig(fit=FitConfig(minibatches=20)),
    )
    window = next(record(bare, noise, windows=1))
    first = env.fit(replace(window, obs=window.obs.double(), reward=window.reward.double()))
    last = env.fit(record(bare, noise, windows=8))  # an iterator, so nothing is kept in memory
    assert "dynamics_error" not in first
    assert last["dynamics_error"] < 0.2
