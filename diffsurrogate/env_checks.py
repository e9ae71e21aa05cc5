"""What an env may be made of, and what it may be told to reset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from diffsurrogate.errors import UsageError


def check_world(
    num_envs: int, agents: Sequence[str], action_space: spaces.Box, max_steps: int | None
) -> None:
    """Refuse an env without copies, agents or time, or with actions of any size.

    Args:
        num_envs: copies that step together.
        agents: one name per agent.
        action_space: box `(agent, act_dim)` of one copy.
        max_steps: steps after which an episode is truncated; None for never.

    Raises:
        UsageError: see above.
    """
    if num_envs < 1:
        raise UsageError(f"num_envs is {num_envs}; at least 1 copy of the env is needed")
    if not agents:
        raise UsageError("the env has no agents; at least 1 is needed (n_agents=1)")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps is {max_steps}; give at least 1, or None for no time limit")
    if not np.isfinite([action_space.low, action_space.high]).all():
        raise UsageError("the action box must be finite; rescale the actions in your env")


def reset_mask(options: dict[str, Any] | None, num_envs: int, seed: int | None) -> Tensor | None:
    """Return `options["reset_mask"]` as (env,) bool; None if all copies are meant.

    Args:
        options: of `reset`; the mask is a tensor, an array or a list.
        num_envs: the copies.
        seed: of `reset`, which a mask excludes: the copies that go on would lose theirs.

    Raises:
        UsageError: the mask has another shape, is not bool, or comes with a seed.
    """
    given = (options or {}).get("reset_mask")
    if given is None:
        return None
    mask = torch.as_tensor(given)
    if mask.shape != (num_envs,) or mask.dtype != torch.bool:
        raise UsageError(
            f"reset_mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; (env,) = "
            f"({num_envs},) and bool are needed"
        )
    if seed is not None:
        raise UsageError(
            'reset(seed=..., options={"reset_mask": ...}) would seed the envs that go on too; give '
            "one of the two"
        )
    return mask
