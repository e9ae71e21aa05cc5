"""Options of `reset`, by every way in and out: obeyed or refused, never ignored."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pettingzoo import ParallelEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from toys.reach import Reach, learned

from diffsurrogate.envs.checks import check_seed
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.gymnasium.export import as_gymnasium
from diffsurrogate.wrappers.pettingzoo.export import as_pettingzoo
from diffsurrogate.wrappers.sb3.export import SB3VecEnv
from diffsurrogate.wrappers.split_agents import SplitAgents

FAR = {"start": 5.0}


class Line(gymnasium.Env[Any, Any]):
    observation_space, action_space = Box(-9, 9, (1,)), Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.full(1, (options or {}).get("start", 0), np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Lines(ParallelEnv[str, Any, Any]):
    metadata = {"name": "lines_v0"}  # noqa: RUF012
    possible_agents = ["a"]  # noqa: RUF012

    def observation_space(self, agent: str) -> Any:
        return Box(-9, 9, (1,))

    action_space = observation_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = ["a"]
        return {"a": Line().reset(options=options)[0]}, {"a": {}}


def line(count: int = 2) -> Any:
    return as_multi_agent(Line, num_envs=count, max_steps=9)


def of_sb3(options: Any) -> Any:
    env = SB3VecEnv(line())
    env.set_options(options)
    return env.reset(), {}


WAYS = {
    "class": lambda: line().reset(options=FAR),
    "same step": lambda: as_multi_agent(
        SyncVectorEnv([Line] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    ).reset(options=FAR),
    "PettingZoo": lambda: as_multi_agent(Lines, num_envs=2).reset(options=FAR),
    "VecEnv": lambda: as_multi_agent(DummyVecEnv([Line] * 2)).reset(options=FAR),
    "learned": lambda: learned(line()).reset(options=FAR),
    "split": lambda: SplitAgents(line(), {"x": [0], "y": [1]}).reset(options=FAR),
    "as_gymnasium": lambda: as_gymnasium(line()).reset(options=FAR),
    "as_pettingzoo": lambda: (as_pettingzoo(line(1)).reset(options=FAR)[0]["agent"], {}),
    "set_options": lambda: of_sb3(FAR),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_options_that_an_env_knows_reach_it(way):
    assert np.all(np.asarray(way()[0]) == FAR["start"])


def test_options_hold_for_one_reset_and_for_the_envs_of_a_mask():
    env = line()
    env.reset(options=FAR)
    assert (env.reset()[0] == 0).all()
    mask = torch.tensor([False, True])
    assert env.reset(options=FAR | {"reset_mask": mask})[0].flatten().tolist() == [0, 5]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: Reach().reset(options=FAR), "Reach.reset does not take the options start"),
        (lambda: make("games/climbing", num_envs=2).reset(options=FAR), "it takes reset_mask"),
        (lambda: make("vmas/simple", num_envs=2).reset(options=FAR), "it takes reset_mask"),
        (lambda: line().reset(options={"reset_masks": [True] * 2}), "did you mean reset_mask"),
        (lambda: check_seed([1, 2]), "seed is .1, 2.; give one whole number"),
        (lambda: of_sb3([FAR, {}]), "slots share a reset"),
    ],
)
def test_others_are_refused(call, why):
    with pytest.raises(UsageError, match=why):
        call()
