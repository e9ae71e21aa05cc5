"""Which bounds the observations of another library's env are held to."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.wrappers.raw_env import flat_box

TOO_NARROW = {"gymnasium.envs.box2d.lunar_lander:LunarLander"}
"""Entry points of envs that everybody uses although they leave their spaces: a lander that flies
up does. Their bounds are not checked."""


def bounds_of(space: gymnasium.Space[Any]) -> Bounds | None:
    """Return the bounds of a space's flattened observations; None if nothing is to be checked.

    Integers that may take all values of their type, such as pictures, cannot leave the space.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        limits = np.iinfo(space.dtype)
        if (space.low == limits.min).all() and (space.high == limits.max).all():
            return None
    box = flat_box(space)
    return None if box is None else Bounds.of(box)


def is_too_narrow(spec: Any) -> bool:
    """Return whether the env of a spec is known to leave its space; False without a spec."""
    return getattr(spec, "entry_point", None) in TOO_NARROW
