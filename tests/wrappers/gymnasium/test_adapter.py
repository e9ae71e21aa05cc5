"""Gymnasium's envs keep their numbers, their ends and their seeds behind our protocol."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor

from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.team_reward import TeamReward

ENVS = 5


class Counter(gymnasium.Env[Any, Any]):
    """Counts up by the action; terminates at 7, truncates itself after 3 steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        observations: spaces.Space[Any] | None = None,
        actions: spaces.Space[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = observations or spaces.Dict(
            {"level": spaces.Discrete(11), "place": spaces.Box(0, 99, (2,), np.float64)}
        )
        self.action_space = actions or spaces.Discrete(3, start=1)
        self.render_mode = render_mode
        self.count = self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.steps = int(self.np_random.integers(2)), 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.count += int(action)
        self.steps += 1
        return self._observation(), 0.5 * self.count, self.count >= 7, self.steps == 3, {}

    def render(self) -> Any:
        return np.full((2, 3, 3), self.count, np.uint8)

    def _observation(self) -> Any:
        return {"level": self.count, "place": np.array([self.count, self.steps], np.float64)}


def test_options_of_make_are_taken_or_refused_with_advice():
    env = as_multi_agent(Counter, num_envs=ENVS, differentiable=False)
    assert env.gradients == frozenset()
    for option, advice in (
        ({"differentiable": True}, "no gradients of its own"),
        ({"render_mode": "rgb_array"}, r"lambda: YourEnv\(render_mode='rgb_array'\)"),
        ({"num_env": 3}, "takes num_envs, .*did you mean 'num_envs'"),
    ):
        with pytest.raises(UsageError, match=advice):
            as_multi_agent(Counter, **option)


class Unmasked(SyncVectorEnv):
    """Ignores which envs are to be reset."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


def counter(**settings: Any) -> Counter:
    return Counter(**settings)


def counters(mode: AutoresetMode, kind: type[SyncVectorEnv] = SyncVectorEnv) -> SyncVectorEnv:
    return kind([Counter] * ENVS, autoreset_mode=mode)


def choose(*choices: int, among: int) -> Tensor:
    """One-hot actions (env, 1, among)."""
    return torch.nn.functional.one_hot(torch.tensor(choices), among).float()[:, None]


def test_the_largest_entry_of_a_discrete_action_is_taken():
    env = as_multi_agent(Counter, num_envs=ENVS)
    assert env.discrete_actions
    assert (env.single_action_space.low == 0).all()
    assert (env.single_action_space.high == 1).all()
    assert env.act_dim == 3
    before, _ = env.reset(seed=0)
    soft = torch.tensor([[0.2, 0.5, 0.3]] * 3 + [[0.0, -4.0, 0.1], [0.9, 0.8, 0.0]])[:, None]
    env.step(soft)
    moved = (env.current_obs - before)[:, 0, -2]
    assert moved.tolist() == [2, 2, 2, 3, 1]  # the first choice is action 1


def test_dict_observations_are_flattened():
    env = as_multi_agent(Counter, num_envs=ENVS)
    obs, _ = env.reset(seed=0)
    assert env.obs_dim == 11 + 2
    assert env.single_observation_space.contains(obs[0].numpy())
    env.step(choose(1, 1, 1, 1, 1, among=3))
    count = env.current_obs[:, 0, -2].long()
    assert torch.equal(env.current_obs[:, 0, :11].argmax(-1), count)
    assert (env.current_obs[:, 0, -1] == 1).all()


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_a_vector_envs_own_truncation_is_no_termination(mode):
    env = as_multi_agent(counters(mode), seed=0)
    assert env.max_steps is None
    start = env.reset()[0][:, 0, -2]
    window = env.rollout(lambda obs: choose(0, 0, 0, 2, 2, among=3), 4)
    assert window.truncated[:, :3].all(1).tolist() == [False, False, True, False]
    assert not window.terminated[:, :3].any()
    # 3 + 3 reaches 7 in the second step from a start at 1, else 9 in the third, as time is up
    late = start[3:] == 0
    assert torch.equal(window.terminated[1, 3:], ~late)
    assert torch.equal(window.terminated[2, 3:], late)
    assert torch.equal(window.truncated[2, 3:], late)
    assert window.next_obs[2, :3, 0, -2].tolist() == (start[:3] + 3).tolist()
    assert (window.obs[3, :3, 0, -1] == 0).all()  # the fresh episode's count of steps


def test_both_autoreset_modes_give_the_same_run():
    modes = (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP)
    runs = []
    for mode in modes:
        env = as_multi_agent(counters(mode), max_steps=2)
        env.reset(seed=4)
        env.randomise_episode_phase(torch.Generator().manual_seed(1))
        runs.append(env.rollout(lambda obs: choose(0, 1, 2, 2, 1, among=3), 13))
    assert torch.equal(runs[0].obs, runs[1].obs)
    assert torch.equal(runs[0].next_obs, runs[1].next_obs)
    assert torch.equal(runs[0].truncated, runs[1].truncated)


def test_a_shorter_time_limit_is_kept_and_an_id_takes_a_longer_one():
    def pendulum() -> Any:
        return gymnasium.make("Pendulum-v1", max_episode_steps=7)

    assert as_multi_agent(pendulum, num_envs=2, max_steps=3).max_steps == 3
    assert make("gymnasium/Pendulum-v1", num_envs=1, max_steps=300).max_steps == 300


def test_a_single_env_and_what_make_vec_makes_are_adapted():
    assert as_multi_agent(gymnasium.make("Pendulum-v1")).num_envs == 1
    settings = {"autoreset_mode": AutoresetMode.DISABLED}
    raw = gymnasium.make_vec("Pendulum-v1", 3, vectorization_mode="sync", vector_kwargs=settings)
    env = as_multi_agent(raw)
    assert (env.num_envs, env.max_steps) == (3, 200)
    assert torch.equal(
        env.reset(seed=5)[0], make("gymnasium/Pendulum-v1", num_envs=3, seed=5).reset()[0]
    )


def test_no_two_envs_or_seeds_share_a_seed():
    assert len(set(env_seeds(1, 97))) == 97
    assert not set(env_seeds(1, 97)) & set(env_seeds(2, 97))
    assert env_seeds(1, 97)[:ENVS] == env_seeds(1, ENVS)


def test_a_picture_that_fails_is_advised_on(monkeypatch):
    env = as_multi_agent(lambda: counter(render_mode="rgb_array"), num_envs=3)
    env.reset(seed=0)
    monkeypatch.setattr(Counter, "render", lambda self: 1 / 0)
    with pytest.raises(UsageError, match=r"division by zero.*MUJOCO_GL=egl"):
        env.render()


@pytest.mark.parametrize(
    "error",
    [gymnasium.error.DependencyNotInstalled('run `pip install "gymnasium[x]"`'), ImportError("x")],
)
def test_a_missing_package_is_named(monkeypatch, error):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(gymnasium, "make", fail)
    with pytest.raises(UsageError, match=r"gymnasium/X-v0 needs a package: .*x"):
        make("gymnasium/X-v0", num_envs=1)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"actions": spaces.MultiBinary(3)}, r"MultiBinary\(3\) are not supp"),
        ({"actions": spaces.Box(0, 7, (2,), np.int64)}, "Box of floats, Discrete and MultiD"),
        ({"actions": spaces.Box(-np.inf, 1, (2,))}, "action box must be finite"),
        ({"observations": spaces.Sequence(spaces.Box(0, 1))}, "fixed size; make them"),
        (
            {"observations": spaces.Dict(a=spaces.Box(0, 1), b=spaces.Sequence(spaces.Box(0, 1)))},
            r"leave out 'b' by gymnasium.wrappers.FilterObservation\(env, \['a'\]\), or",
        ),
    ],
)
def test_spaces_that_do_not_fit_are_named(settings, advice):
    with pytest.raises(UsageError, match=advice):
        as_multi_agent(counter(**settings))


def test_envs_that_cannot_be_put_together_are_refused():
    spaces_in_turn = iter([spaces.Discrete(2), spaces.Discrete(3)])
    one = Counter()
    for raw, options, advice in [
        (lambda: Counter(actions=next(spaces_in_turn)), {"num_envs": 2}, "the same spaces"),
        (lambda: one, {"num_envs": 2}, "a new one each time"),
        (one, {"num_envs": 2}, "give a function"),
        (Counter, {"num_envs": 0}, "at least 1"),
        (counters(AutoresetMode.DISABLED), {"num_envs": 2}, "has 5 envs"),
        (
            RecordEpisodeStatistics(counters(AutoresetMode.NEXT_STEP)),
            {},
            "NEXT_STEP.*make it with DISABLED or SAME_STEP",
        ),
        (TeamReward(make("diffsurrogate/cartpole-swingup", num_envs=2)), {}, r"its \.env"),
    ]:
        with pytest.raises(UsageError, match=advice):
            as_multi_agent(raw, **options)


def test_what_gymnasium_makes_by_default_is_taken_as_it_is():
    """Its mode NEXT_STEP would have steps that are none; episodes of 5 steps, 12 of them."""
    options: Any = {"num_envs": 3, "vectorization_mode": "sync", "max_episode_steps": 5}
    asked = {"vector_kwargs": {"autoreset_mode": AutoresetMode.DISABLED}}
    usual = as_multi_agent(gymnasium.make_vec("Pendulum-v1", **options))
    window, other = (
        env.collect(lambda obs: torch.zeros(3, 1, 1), 12)
        for env in (usual, as_multi_agent(gymnasium.make_vec("Pendulum-v1", **options, **asked)))
        if env.reset(seed=0)
    )
    assert window.truncated.sum() == 6
    assert all(torch.equal(getattr(window, n), getattr(other, n)) for n in ("obs", "next_obs"))


def test_a_vector_env_that_resets_more_than_asked_is_found_out():
    env = as_multi_agent(counters(AutoresetMode.DISABLED, Unmasked))
    env.reset(seed=0)
    with pytest.raises(UsageError, match="did not keep to"):
        env.rollout(lambda obs: choose(0, 0, 2, 2, 2, among=3), 2 + 1)


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (spaces.Dict({}), spaces.Discrete(2)),
        (spaces.Tuple(()), spaces.Discrete(2)),
        (spaces.Box(-1, 1, (3, 0)), spaces.Discrete(2)),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (0,))),
        (spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete(np.array([], dtype=np.int64))),
    ],
)
def test_spaces_without_entries_are_refused(observations, actions):
    one = Counter()
    one.observation_space, one.action_space = observations, actions
    with pytest.raises(UsageError, match=r"have no (entries|choices); "):
        as_multi_agent(one)
