"""Spaces of other libraries: flattened, padded, bounded."""

import functools
import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.bounds import Bounds, float32_inside, index_in
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import flat_box


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
    flat: Tensor = obs.reshape(len(obs), math.prod(obs.shape[1:])).to(torch.float32)
    return flat


def agent_names(actions: gymnasium.Space[Any]) -> list[str]:
    """Return agent names: "agent", or one for each choice of a `MultiDiscrete` space."""
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
            f"observations of {space} cannot become a vector of fixed size; {_without(space)}make "
            "them one in a gymnasium.ObservationWrapper"
        )
    with np.errstate(over="ignore"):  # the largest float64 becomes infinite
        low, high = (
            np.tile(bound.astype(np.float32), (agents, 1)) for bound in (flat.low, flat.high)
        )
    return spaces.Box(low, high, dtype=np.float32)


def _without(space: gymnasium.Space[Any]) -> str:
    """Say how to leave out the parts of a dict that have no fixed size; "" if there is no way."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    kept = [key for key, part in parts.items() if flat_box(part) is not None]
    if not kept:
        return ""
    lost = ", ".join(repr(key) for key in parts if key not in kept)
    return f"leave out {lost} by gymnasium.wrappers.FilterObservation(env, {kept}), or "


def action_box(space: gymnasium.Space[Any]) -> spaces.Box:
    """Return the box `(agent, act_dim)` float32 of an action: flattened, or one-hot if discrete.

    Raises:
        UsageError: the actions are neither continuous nor choices.
    """
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.size == 0:
        raise UsageError(f"actions of {space} have no choices; at least one is needed")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return spaces.Box(0, 1, tuple(valid_action_dims(space).shape), np.float32)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        inside = float32_inside(space)
        low, high = inside.low.reshape(1, -1), inside.high.reshape(1, -1)
        return spaces.Box(low, high, dtype=np.float32)
    raise UsageError(
        f"actions of {space} are not supported; only a Box of floats, Discrete and MultiDiscrete "
        "are, make them one of these in a gymnasium.ActionWrapper"
    )


def into_box(rows: NDArray[np.float32], space: spaces.Box) -> NDArray[Any]:
    """Return actions (env, act_dim) as the box has them: its dtype, its shape, never outside."""
    shaped = rows.astype(space.dtype).reshape(len(rows), *space.shape)
    return np.clip(shaped, space.low, space.high)


def valid_action_dims(space: gymnasium.Space[Any]) -> Tensor:
    """Return which entries of an action are not padding, `(agent, act_dim)` bool."""
    if isinstance(space, spaces.MultiDiscrete):
        choices = torch.from_numpy(space.nvec.ravel())
        return torch.arange(int(choices.max())) < choices.unsqueeze(1)
    return torch.ones(1, spaces.flatdim(space), dtype=torch.bool)


TOO_NARROW = {"gymnasium.envs.box2d.lunar_lander:LunarLander"}
"""Entry points of widely used envs that leave their spaces, as a lander that flies up does. Their
bounds are not checked."""


def bounds_of(space: gymnasium.Space[Any]) -> Bounds | None:
    """Return the bounds of a space's flattened observations; None if nothing is to be checked.

    Integers that may take all values of their type, such as pictures, cannot leave the space.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        limits = np.iinfo(space.dtype)
        if (space.low == limits.min).all() and (space.high == limits.max).all():
            return None
    box = flat_box(space)
    return None if box is None else Bounds.of(box, name=functools.partial(_place, space))


def _place(space: gymnasium.Space[Any], entry: int) -> str:
    """Return where in a space the number is that is `entry` in its flat box: ['pose'][1, 2]."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in named:
            if entry < (numbers := spaces.flatdim(part)):
                return f"[{key!r}]{_place(part, entry)}"
            entry -= numbers
    if isinstance(space, spaces.Box):
        return index_in(space.shape, entry)
    return f"[{entry}]"


def is_too_narrow(spec: Any) -> bool:
    """Return whether the env of a spec is known to leave its space; False without a spec."""
    return getattr(spec, "entry_point", None) in TOO_NARROW
