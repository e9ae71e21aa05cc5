"""Two ways of stepping the same robots, compared."""

import numpy as np
import torch
from torch import Tensor

from diffsurrogate import MultiAgentVectorEnv


def play(env: MultiAgentVectorEnv, steps: int) -> list[Tensor]:
    """Return all that `steps` random actions, the same for each env of a kind, give."""
    generator = torch.Generator().manual_seed(7)
    low, high = env.action_low, env.action_high
    shape = (env.num_envs, *low.shape)
    rows = []
    for _ in range(steps):
        action = low + (high - low) * torch.rand(shape, generator=generator)
        obs, reward, terminated, truncated, info = env.step(action)
        rows += [obs, reward, terminated, truncated, info["final_obs"]]
    return rows


def assert_equal(ours: MultiAgentVectorEnv, theirs: MultiAgentVectorEnv, steps: int) -> None:
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.max_steps == theirs.max_steps
    assert torch.equal(ours.reset()[0], theirs.reset()[0])
    for got, expected in zip(play(ours, steps), play(theirs, steps), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
