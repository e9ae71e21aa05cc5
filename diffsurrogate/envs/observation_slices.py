"""Columns of observations with a role of their own: the choices open now, and the global state.

All code passes observations `(*batch, agent, obs_dim)` on, so that what restricts a policy and what
it may not see travel with them: through windows, caches and models, and to the log-probabilities of
old samples.
"""

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.errors import UsageError


def available_actions(obs: Tensor, columns: slice) -> Tensor:
    """Return which choices are open: (*batch, agent, choice) bool.

    An agent without any, such as one that is gone, is treated as if all were open.

    Args:
        obs: (*batch, agent, obs_dim).
        columns: of `obs`, 1 where a choice is open and 0 where it is closed.
    """
    found = obs[..., columns] > 0.5
    return found | ~found.any(-1, keepdim=True)


def without(rows: Tensor, columns: slice | None) -> Tensor:
    """Return rows `(*batch, feature)` without some of their features."""
    if columns is None:
        return rows
    return torch.cat([rows[..., : columns.start], rows[..., columns.stop :]], dim=-1)


def box_without(space: Box, columns: slice | None) -> Box:
    """Return a box `(agent, obs_dim)` without some of its columns."""
    if columns is None:
        return space
    low, high = (np.delete(bound, columns, axis=-1) for bound in (space.low, space.high))
    return Box(low, high, dtype=np.float32)


def check_columns(
    action_mask_slice: slice | None,
    global_state_slice: slice | None,
    *,
    obs_dim: int,
    act_dim: int,
    discrete: bool,
) -> None:
    """Refuse columns that an observation has not, or that cannot have the role.

    Args:
        action_mask_slice: one column per choice.
        global_state_slice: any number of columns, but not all.
        obs_dim: features of one agent's observation.
        act_dim: features of one agent's action.
        discrete: whether actions are choices.

    Raises:
        UsageError: see above.
    """
    taken: set[int] = set()
    for name, columns in (
        ("action_mask_slice", action_mask_slice),
        ("global_state_slice", global_state_slice),
    ):
        if columns is None:
            continue
        ends = (columns.start, columns.stop)
        plain = all(isinstance(end, int) for end in ends) and columns.step in (None, 1)
        if not plain or not 0 <= columns.start < columns.stop <= obs_dim:
            raise UsageError(
                f"{name} is {columns}; slice(start, stop) of columns among the {obs_dim} of an "
                "observation is needed"
            )
        own = set(range(columns.start, columns.stop))
        if taken & own:
            raise UsageError(
                f"action_mask_slice and global_state_slice share the columns {taken & own}"
            )
        taken |= own
    if action_mask_slice is not None:
        if not discrete:
            raise UsageError(
                "action_mask_slice says which actions are available, but this env's actions are "
                "numbers; leave it None, or set discrete_actions = True"
            )
        if action_mask_slice.stop - action_mask_slice.start != act_dim:
            raise UsageError(
                f"action_mask_slice is {action_mask_slice}; {act_dim} columns are needed"
            )
    if len(taken) == obs_dim and global_state_slice is not None and action_mask_slice is None:
        raise UsageError(
            "global_state_slice takes all of an observation; a policy would see nothing"
        )
