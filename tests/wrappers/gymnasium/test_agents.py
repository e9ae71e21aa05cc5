"""Gymnasium's envs of several agents, tuples all of them, keep their numbers and their ends."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError

ENVS = 5
WIDTHS = (2, 3)
"""How much each of two agents observes."""


class Pair(gymnasium.Env[Any, Any]):
    """Agent 0 terminates at step 2 and agent 1 at step 4; `answer` changes what a step gives."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Tuple((spaces.Discrete(3, start=1), spaces.Discrete(4)))
    observation_space = spaces.Tuple(tuple(spaces.Box(0, 99, (width,)) for width in WIDTHS))

    def __init__(self, render_mode: str | None = None, **answer: Any) -> None:
        self.answer, self.render_mode = answer, render_mode
        self.got: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.start, self.steps = int(self.np_random.integers(50)), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.got.append(action)
        self.steps += 1
        step = {
            "obs": self._seen(),
            "reward": [1.0 * self.steps, 10.0 * self.steps],
            "terminated": (self.steps >= 2, self.steps >= 4),
            "truncated": False,
            "info": {"far": 3.0},
        }
        return tuple((step | self.answer).values())

    def render(self) -> Any:
        return np.full((2, 3, 3), self.steps, np.uint8)

    def _seen(self) -> Any:
        value = self.start + self.steps
        return tuple(np.full(width, value, np.float32) for width in WIDTHS)


class OneSees(Pair):
    """Two actions of one agent."""

    observation_space = spaces.Box(0, 99, (2,))


gymnasium.register("Pair-v0", Pair, max_episode_steps=3)


def choose(first: int, second: int) -> torch.Tensor:
    rows = torch.zeros(ENVS, 2, 4)
    rows[:, 0, first] = rows[:, 1, second] = 1
    return rows


def test_agents_have_their_own_rewards_and_end_one_by_one():
    env = as_multi_agent(Pair, num_envs=ENVS, seed=0)
    assert (env.agents, env.obs_dim, env.act_dim) == (["agent_0", "agent_1"], 3, 4)
    assert env.valid_action_dims.sum(1).tolist() == [3, 4]
    assert env.observation_mask.sum(1).tolist() == [2, 3]
    obs, _ = env.reset()
    start = obs[:, 1, 0]
    assert len(start.unique()) > 1  # each copy has its own seed
    assert torch.equal(obs[0, 0], torch.tensor([start[0], start[0], 0.0]))
    steps = [env.step(choose(2, 3)) for _ in range(4)]
    rewards = torch.stack([reward[0] for _, reward, *_ in steps])
    assert rewards.tolist() == [[1, 10], [2, 20], [0, 30], [0, 40]]
    assert [bool(step[2].all()) for step in steps] == [False, False, False, True]
    assert not any(bool(step[3].any()) for step in steps)
    final = steps[-1][4]["final_obs"]
    assert torch.equal(final[:, 1, 0], start + 4) and not final[:, 0].any()
    raw = env.raws[0].unwrapped
    assert raw.got == [(3, 3), (3, 3), (1, 3), (1, 3)]  # its first choice once it has ended
    assert steps[-1][4]["far"].tolist() == [3.0] * ENVS


def test_one_reward_and_one_flag_are_for_all_agents():
    env = as_multi_agent(lambda: Pair(reward=8, terminated=True), num_envs=ENVS)
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(choose(0, 0))
    assert reward.tolist() == [[4.0, 4.0]] * ENVS
    assert terminated.all() and not truncated.any()


@pytest.mark.parametrize(
    "make_env",
    [
        lambda: make("gymnasium/Pair-v0", num_envs=ENVS, terminated=(False, False)),
        lambda: as_multi_agent(lambda: TimeLimit(Pair(terminated=False), 3), num_envs=ENVS),
        lambda: as_multi_agent(lambda: Pair(terminated=False), num_envs=ENVS, max_steps=3),
        lambda: as_multi_agent(
            lambda: gymnasium.make("Pair-v0", terminated=[False] * 2), num_envs=ENVS
        ),
    ],
    ids=["id", "wrapper", "max_steps", "made by Gymnasium"],
)
def test_a_time_limit_truncates_all_agents(make_env):
    env = make_env()
    env.reset(seed=0)
    steps = [env.step(choose(0, 0)) for _ in range(3)]
    assert [bool(step[3].all()) for step in steps] == [False, False, True]
    assert not any(bool(step[2].any()) for step in steps)


def test_a_policy_answers_tuples_by_tuples():
    env = as_multi_agent(Pair, num_envs=ENVS)
    raw = Pair()
    obs, _ = raw.reset(seed=1)
    rows, answer = env.raw_form.read(obs)
    assert torch.equal(rows[0, 1], torch.tensor(obs[1]))
    assert raw.action_space.contains(answer(choose(2, 3)[:1]))


def test_pictures_are_the_env_s():
    env = make("gymnasium/Pair-v0", num_envs=2, render_mode="rgb_array")
    env.reset(seed=0)
    assert [frame.shape for frame in env.render()] == [(2, 3, 3)] * 2


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"reward": [1.0, 2.0, 3.0]}, "its reward is a list of 3; one for each of 2 agents"),
        ({"terminated": [True]}, "its terminated is a list of 1; one for each of 2 agents"),
        ({"obs": None}, "its observation is a NoneType; one for each of 2 agents"),
        ({"info": None}, "its info is a NoneType; one for each of 2 agents"),
        ({"obs": (np.zeros(2), np.zeros(2))}, r"observation of 'agent_1' is of shape \(2,\)"),
    ],
)
def test_what_is_not_one_for_each_agent_is_refused(answer, named):
    env = as_multi_agent(lambda: Pair(**answer), num_envs=ENVS)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=f"Pair, env 0, step 1 of its episode: .*{named}"):
        env.step(choose(0, 0))


def test_what_is_not_one_agent_s_or_a_tuple_of_agents_is_refused():
    with pytest.raises(UsageError, match=r"give a function that makes one: as_multi_agent\(lambda"):
        as_multi_agent(SyncVectorEnv([Pair] * 2))
    with pytest.raises(UsageError, match=r"actions of Tuple.* are not supported"):
        as_multi_agent(OneSees)
    mixed = Pair()
    mixed.action_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1)))
    with pytest.raises(UsageError, match=r"'agent_0' has Discrete.* Box.* or gymnasium\.Wrapper"):
        as_multi_agent(mixed)
    with pytest.raises(UsageError, match=r"CartPole-v1 does not take n_agents \(--agents\)"):
        make("gymnasium/CartPole-v1", num_envs=2, n_agents=3)
