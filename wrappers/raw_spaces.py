"""The boxes of a raw env's one agent, or of the agents that make its several choices."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.raw_env import flat_box


def agent_names(actions: gymnasium.Space[Any]) -> list[str]:
    """Return who acts: "agent", or an agent for each choice of a `MultiDiscrete` space."""
    if isinstance(actions, spaces.MultiDiscrete):
        return [f"choice_{index}" for index in range(actions.nvec.size)]
    return ["agent"]


def observation_box(space: gymnasium.Space[Any], agents: int = 1) -> spaces.Box:
    """Return the box `(agent, obs_dim)` float32 of a flattened observation that all agents see.

    Raises:
        UsageError: the observations have no fixed size.
    """
    flat = flat_box(space)
    if flat is None:
        raise UsageError(
            f"observations of {space} cannot become a vector of fixed size; make them one in a "
            "gymnasium.ObservationWrapper"
        )
    with np.errstate(over="ignore"):  # the largest float64 becomes infinite
        low, high = (
            np.tile(bound.astype(np.float32), (agents, 1)) for bound in (flat.low, flat.high)
        )
    return spaces.Box(low, high, dtype=np.float32)


def action_box(space: gymnasium.Space[Any]) -> spaces.Box:
    """Return the box `(agent, act_dim)` float32 of an action: flattened, or one-hot if discrete.

    Raises:
        UsageError: the actions are neither continuous nor choices.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return spaces.Box(0, 1, tuple(action_mask(space).shape), np.float32)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = (bound.astype(np.float32).reshape(1, -1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)
    raise UsageError(
        f"actions of {space} are not supported; only a Box of floats, Discrete and MultiDiscrete "
        "are, make them one of these in a gymnasium.ActionWrapper"
    )


def action_mask(space: gymnasium.Space[Any]) -> Tensor:
    """Return which entries of an action are not padding, `(agent, act_dim)` bool."""
    if isinstance(space, spaces.MultiDiscrete):
        choices = torch.from_numpy(space.nvec.ravel())
        return torch.arange(int(choices.max())) < choices.unsqueeze(1)
    return torch.ones(1, spaces.flatdim(space), dtype=torch.bool)
