"""Some copies are reset, wherever they are; the others continue."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor
from toys.reach import Reach, learned

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.gymnasium.export import as_gymnasium
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.split_agents import SplitAgents

ENVS, LIMIT = 5, 6
MASK = torch.tensor([True, False, False, True, False])


def navigation() -> MultiAgentVectorEnv:
    env = make("vmas/navigation", num_envs=ENVS, max_steps=LIMIT, seed=2)
    with pytest.raises(UsageError, match="not reset"):
        env.reset(options={"reset_mask": MASK})
    env.reset(seed=3)
    return env


def action(env: MultiAgentVectorEnv, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    shape = (ENVS, env.num_agents, env.act_dim)
    return 2 * torch.rand(shape, generator=generator) - 1


def test_envs_that_ended_in_the_last_step_can_be_reset_again():
    env = navigation()
    for step in range(6):
        obs, _, _, truncated, _ = env.step(action(env, step))
        if step == 1:
            env.reset(options={"reset_mask": MASK})
    assert torch.equal(truncated, ~MASK)
    ended = torch.tensor([False, True, True, False, False])
    again, _ = env.reset(options={"reset_mask": ended})
    assert torch.equal(again[~ended], obs[~ended])
    assert (again[ended] != obs[ended]).flatten(1).any(1).all()


def test_wrappers_pass_reset_masks_on():
    robot = make("vmas/navigation", num_envs=ENVS, n_agents=1)
    env: Any
    for env in (
        LearnedDiffWrapper(make("vmas/navigation", num_envs=ENVS, n_agents=2)),
        SplitAgents(robot, {"x": [0], "y": [1]}),
        learned(Reach(num_envs=ENVS, differentiable=False)),
    ):
        env.reset(seed=0)
        before = env.step(action(env, 0))[0]
        after, _ = env.reset(options={"reset_mask": MASK})
        assert torch.equal(after[~MASK], before[~MASK])
        assert (after[MASK] != before[MASK]).flatten(1).any(1).all()
        assert torch.equal(env.episode_start, MASK)


@pytest.mark.parametrize(
    ("mask", "seed", "advice"),
    [
        (torch.ones(ENVS + 1, dtype=torch.bool), None, r"shape \(6,\) .* \(env,\) = \(5,\)"),
        (torch.ones(ENVS), None, r"dtype torch.float32; .* and bool are needed"),
        (MASK, 1, "would reseed the running envs too"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, seed, advice):
    env = navigation()
    for one in (env, as_gymnasium(env)):
        with pytest.raises(UsageError, match=advice):
            one.reset(seed=seed, options={"reset_mask": mask})


def test_a_vec_env_resets_only_where_episodes_end():
    env = as_multi_agent(make_vec_env("Pendulum-v1", n_envs=ENVS))
    for one in (env, LearnedDiffWrapper(env), SplitAgents(env, {"a": [0]})):
        with pytest.raises(UsageError, match='leave autoreset at "same_step"'):
            as_gymnasium(one, autoreset="next_step")


# --- as Gymnasium's vector env, whose resets take a step ------------------------------------------


class Counter(gymnasium.Env[Any, Any]):
    """Counts from a start that it draws; terminates at 7, is cut after 5 steps."""

    observation_space = spaces.Box(-1, 100, (2,), np.float32)
    action_space = spaces.Box(0, 2, (1,), np.float32)

    def __init__(self, starts: list[int]) -> None:
        self.starts, self.resets = starts, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.steps = self.starts[self.resets % len(self.starts)], 0
        self.resets += 1
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1 + int(action[0] > 1)
        self.steps += 1
        return self._see(), self.count / 10, self.count >= 7, self.steps >= 5, {}

    def _see(self) -> Any:
        return np.array([self.count, self.steps], np.float32)


def counters(mode: AutoresetMode, *, twice: bool) -> SyncVectorEnv:
    """With `twice`, every start but the first is there twice, as the export resets twice.

    No episode lasts for one step only, after which there would be a third.
    """
    starts = [[0, 3, 1], [2, 4], [4, 0, 2, 1]]
    if twice:
        starts = [[first, *np.repeat([*later, first], 2)] for first, *later in starts]
        starts = [[*s, *s[1:] * 5] for s in starts]
    else:
        starts = [s * 9 for s in starts]
    return SyncVectorEnv([lambda s=s: Counter(s) for s in starts], autoreset_mode=mode)


def ours(**options: Any) -> Any:
    env = as_multi_agent(counters(AutoresetMode.DISABLED, twice=True))
    return as_gymnasium(env, autoreset="next_step", **options)


def theirs() -> SyncVectorEnv:
    return counters(AutoresetMode.NEXT_STEP, twice=False)


def pushes(step: int) -> np.ndarray:
    return np.float32([[2 * ((step + i) % 3 == 0)] for i in range(3)])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: env,
        vector.NormalizeObservation,
        vector.NormalizeReward,
        lambda env: vector.RescaleObservation(env, np.float32([0, 0]), np.float32([1, 1])),
        vector.RecordEpisodeStatistics,
        lambda env: vector.NormalizeObservation(vector.RecordEpisodeStatistics(env)),
        lambda env: vector.TransformObservation(env, lambda obs: 2 * obs),
    ],
)
def test_a_run_with_next_step_autoreset_is_gymnasiums_in_its_wrappers_too(wrap):
    one, other = wrap(ours()), wrap(theirs())
    assert one.metadata["autoreset_mode"] == other.metadata["autoreset_mode"]
    assert one.reset(seed=0)[0] == pytest.approx(other.reset(seed=0)[0], abs=1e-5)
    ends = 0
    for step in range(40):
        *got, info = one.step(pushes(step))
        *expected, their_info = other.step(pushes(step))
        for mine, their in zip(got, expected, strict=True):
            assert mine == pytest.approx(their, abs=1e-5)
        if "episode" in their_info:
            for name in ("r", "l"):
                assert info["episode"][name] == pytest.approx(their_info["episode"][name])
        else:
            assert info == {}
        ends += int((got[2] | got[3]).sum())
    assert ends > 15
    if hasattr(one, "return_queue"):
        assert list(one.return_queue) == pytest.approx(list(other.return_queue))
        assert len(one.return_queue) > 15


def test_while_some_wait_the_others_cannot_be_reset_alone():
    envs = ours()
    envs.reset(seed=0)
    while True:
        *_, terminated, truncated, _ = envs.step(pushes(0))
        over = terminated | truncated
        if over.any():
            break
    assert not over.all()
    with pytest.raises(UsageError, match=rf"\[{over.argmax()}\] ended in the last step and wait"):
        envs.reset(options={"reset_mask": ~over})
    obs, _ = envs.reset(options={"reset_mask": over})
    assert (obs[over][:, 1] == 0).all()
    assert (obs[~over][:, 1] > 0).all()
    *_, terminated, truncated, _ = envs.step(pushes(0))
    assert not (terminated | truncated)[over].any()
