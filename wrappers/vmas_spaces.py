"""Between VMAS's spaces and observations per agent and ours of all agents."""

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor


def per_agent(space: Any, raw: Any) -> list[Any]:
    """Return the space of each agent from VMAS's tuple or dict of them."""
    if raw.dict_spaces:
        return [space[agent.name] for agent in raw.agents]
    return list(space)


def size(space: Any) -> int:
    """Return how many numbers an observation has, in all its parts."""
    if hasattr(space, "spaces"):
        return sum(size(part) for part in space.spaces.values())
    return math.prod(space.shape)


def box_of_choices(count: int) -> gymnasium.spaces.Box:
    """Return the box that one-hot rows of so many choices lie in."""
    return gymnasium.spaces.Box(0.0, 1.0, (count,), np.float32)


def padded_box(boxes: list[Any], *, floor: float = -1.0) -> gymnasium.spaces.Box:
    """Return one box (agent, act_dim); padding is in [floor, 1], as any scaling needs bounds."""
    shape = (len(boxes), max(box.shape[0] for box in boxes))
    low, high = np.full(shape, floor, np.float32), np.ones(shape, np.float32)
    for agent, box in enumerate(boxes):
        low[agent, : box.shape[0]] = box.low
        high[agent, : box.shape[0]] = box.high
    return gymnasium.spaces.Box(low, high, shape, np.float32)


def flatten(obs: Any) -> Tensor:
    """Return one agent's observation, a tensor or nested dict of tensors, as (env, feature)."""
    if isinstance(obs, dict):
        return torch.cat([flatten(part) for part in obs.values()], dim=1)
    flat: Tensor = obs.reshape(len(obs), -1).to(torch.float32)
    return flat
