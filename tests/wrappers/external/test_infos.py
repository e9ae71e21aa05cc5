"""What envs report in infos, per env: in a step's info, in metrics, in evaluations."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers.vector import DictInfoToList
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordAll
from pettingzoo import ParallelEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.external.infos import one_number
from diffsurrogate.wrappers.sb3.export import SB3VecEnv
from diffsurrogate.wrappers.split_agents import SplitAgents

ENVS = 2


class Task(gymnasium.Env[Any, Any]):
    """Solved after three steps; the distance is told in every second step."""

    observation_space, action_space = Box(-1, 1, (1,)), Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {"t": 0}

    def step(self, action: Any) -> Any:
        self.t += 1
        info = {"is_success": self.t >= 3, "why": "there", "deep": {"t": np.float64(self.t)}}
        if self.t % 2 == 0:
            info["distance"] = 3 - self.t
        return np.zeros(1, np.float32), 1.0, self.t >= 3, False, info


class Telling(Task):
    """Tells a number."""

    def __init__(self, told: Any) -> None:
        self.told = told

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"told": self.told, "in": {"told": self.told}}


class Pair(ParallelEnv[str, Any, Any]):
    metadata = {"name": "pair_v0"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012

    def observation_space(self, agent: str) -> Any:
        return Box(-1, 1, (1,))

    action_space = observation_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.one, self.agents = Task(), ["a", "b"]
        self.one.reset()
        return dict.fromkeys(self.agents, np.zeros(1)), {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        obs, _, over, _, info = self.one.step(None)
        names, self.agents = self.agents, [] if over else self.agents
        told = {"a": info, "b": info | {"is_success": False}}
        each = [dict.fromkeys(names, value) for value in (obs, 1.0, over, False)]
        return (*each, told)


def same_step() -> MultiAgentVectorEnv:
    return as_multi_agent(SyncVectorEnv([Task] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP))


WAYS = {
    "class": lambda: as_multi_agent(Task, num_envs=ENVS),
    "same step": same_step,
    "VecEnv": lambda: as_multi_agent(DummyVecEnv([Task] * ENVS)),
    "PettingZoo": lambda: as_multi_agent(Pair, num_envs=ENVS),
    "split": lambda: SplitAgents(as_multi_agent(Task, num_envs=ENVS), {"x": [0], "y": [1]}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_numbers_of_infos_are_there_per_env(way, request):
    env, share = way(), 0.5 if request.node.callspec.id == "PettingZoo" else 1.0
    env.reset(seed=0)
    zero = torch.zeros(ENVS, env.num_agents, env.act_dim)
    infos = [env.step(zero)[-1] for _ in range(3)]
    assert [info["is_success"].tolist() for info in infos] == [[0, 0], [0, 0], [share, share]]
    assert [info["deep/t"][0].item() for info in infos] == [1, 2, 3]
    assert infos[1]["distance"].tolist() == [1, 1]
    for info in infos[::2]:
        assert info.get("distance", torch.tensor(torch.nan)).isnan().all()
    assert not {"why", "t"} & {*infos[2]}
    report = env.episode_report()
    assert report.pop("episode_length") == 3
    assert report.pop("episode_return") == (6 if share < 1 else 3)  # of two agents, or one
    assert report == {"info/is_success": share, "info/deep/t": 3}
    assert env.episode_report() == {}
    evaluated = evaluate(lambda obs: zero, env, steps=9)
    assert evaluated.info["distance"].tolist() == [1, 1]  # the last one told in the episode
    assert evaluated.summary()["info/is_success"] == share


def test_training_reports_them_and_stable_baselines3_gets_them():
    env = as_multi_agent(lambda: RecordEpisodeStatistics(Task()), num_envs=ENVS)
    trainer = PPO(env, PPOConfig(horizon=2), seed=0)
    metrics = list(trainer.iterations(2))
    assert "info/is_success" not in metrics[0]
    assert metrics[1]["info/is_success"] == 1
    assert metrics[1]["info/episode/r"] == 3
    exported = SB3VecEnv(WAYS["class"]())
    exported.reset()
    steps = [exported.step(np.zeros((ENVS, 2)))[-1] for _ in range(3)]
    assert [infos[1]["is_success"] for infos in steps] == [0, 0, 1]
    assert ["distance" in infos[0] for infos in steps] == [False, True, False]


def test_vmas_scenarios_report_too():
    env = make("vmas/navigation", num_envs=ENVS, n_agents=2, max_steps=3)
    env.reset(seed=0)
    info = env.step(torch.zeros(ENVS, 2, 2))[-1]
    raw = [env.raw.scenario.info(agent)["agent_collisions"] for agent in env.raw.agents]
    assert torch.equal(info["agent_collisions"], torch.stack(raw).mean(0))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("listed", [lambda env: env, DictInfoToList])
def test_what_a_wrapper_around_a_vector_env_tells_of_ended_episodes_is_there(mode, listed):
    copies = [lambda limit=limit: TimeLimit(Task(), limit) for limit in (2, 5)]
    env = as_multi_agent(listed(RecordAll(SyncVectorEnv(copies, autoreset_mode=mode))))
    env.reset()
    told = [env.step(torch.zeros(ENVS, 1, 2))[-1].get("episode/l") for _ in range(3)]
    assert told[0] is None
    assert [lengths.tolist() for lengths in told[1:]] == [
        pytest.approx([2, np.nan], nan_ok=True),
        pytest.approx([np.nan, 3], nan_ok=True),
    ]


@pytest.mark.parametrize("told", [(0, 0.75), (True, np.float16(2.5)), (np.array([2.5]), 3)])
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv, DummyVecEnv])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
def test_copies_may_tell_numbers_of_different_types(kind, told):
    """Gymnasium's array has the type of the first."""
    copies = [lambda one=one: Telling(one) for one in (*told, torch.tensor(1.25))]
    options = {} if kind is DummyVecEnv else {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = as_multi_agent(kind(copies, **options))
    env.reset()
    info = env.step(torch.zeros(3, 1, 2))[-1]
    env.close()
    for name in ("told", "in/told"):
        assert info[name].tolist() == [*map(one_number, told), 1.25]
