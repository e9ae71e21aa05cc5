"""Observation slices with a special role: the action mask and the global state.

As parts of the observation `(*batch, agent, obs_dim)`, they pass through windows, replay buffers
and models, and reach the log-probabilities of old samples.
"""

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.errors import UsageError


def available_actions(obs: Tensor, columns: slice) -> Tensor:
    """Return the action mask: (*batch, agent, act_dim) bool.

    If an agent has no available action, such as a dead one, all count as available.

    Args:
        obs: (*batch, agent, obs_dim).
        columns: the slice of `obs` with the mask, 1 for available actions, else 0.
    """
    found = obs[..., columns] > 0.5
    return found | ~found.any(-1, keepdim=True)


def without(rows: Tensor, columns: slice | None) -> Tensor:
    """Return rows `(*batch, feature)` without a slice of their features."""
    if columns is None:
        return rows
    return torch.cat([rows[..., : columns.start], rows[..., columns.stop :]], dim=-1)


def box_without(space: Box, columns: slice | None) -> Box:
    """Return a box `(agent, obs_dim)` without a slice of its features."""
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
    """Check the slices of an observation that have a special role.

    Args:
        action_mask_slice: one feature per discrete action.
        global_state_slice: any number of features, but not all.
        obs_dim: features of one agent's observation.
        act_dim: features of one agent's action.
        discrete: whether actions are discrete.

    Raises:
        UsageError: a slice is out of range or does not suit its role, or the slices overlap.
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
                f"{name} is {columns}; a slice(start, stop) within the {obs_dim} features of an "
                "observation is needed"
            )
        own = set(range(columns.start, columns.stop))
        if taken & own:
            raise UsageError(
                f"action_mask_slice and global_state_slice share the features {taken & own}"
            )
        taken |= own
    if action_mask_slice is not None:
        if not discrete:
            raise UsageError(
                "action_mask_slice says which actions are available, but this env's actions are "
                "continuous; leave it None, or set discrete_actions = True"
            )
        if action_mask_slice.stop - action_mask_slice.start != act_dim:
            raise UsageError(
                f"action_mask_slice is {action_mask_slice}; {act_dim} features are needed"
            )
    if len(taken) == obs_dim and global_state_slice is not None and action_mask_slice is None:
        raise UsageError(
            "global_state_slice covers the whole observation; the policy would see nothing"
        )
