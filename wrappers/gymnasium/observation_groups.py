"""Groups of observations, as batched simulators give them, and our rows of features."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from diffsurrogate.errors import UsageError

POLICY, STATE = ("policy", "actor"), ("critic",)
"""Names of the groups that policies see, of which the first is taken, and of the state."""
Path = tuple[str, ...]


class Groups:
    """Where the parts of an observation lie in rows: what policies see, then the state."""

    def __init__(
        self,
        described: Any,
        name: str,
        num_envs: int,
        device: torch.device,
        policy_groups: Sequence[str] | None,
        state_groups: Sequence[str] | None,
    ) -> None:
        """Read the space of one env's observations, or the observations of all.

        Args:
            described: a space with groups or without, or tensors.
            name: of the env, for messages.
            num_envs: number of envs.
            device: of all tensors.
            policy_groups: what policies see; None for "policy" or "actor", or all.
            state_groups: what critics and models see as well; None for "critic".

        Raises:
            UsageError: a group is not there, is in no list, or has no fixed size.
        """
        self.name, self.num_envs, self.device = name, num_envs, device
        names = None if (found := _parts(described)) is None else list(found)
        seen, state = self._choose(names, policy_groups, state_groups)
        self.parts: list[tuple[Path, spaces.Box]] = []
        """Per part, its keys and its box."""
        ends = []
        for groups in (seen, state):
            for group in groups:
                part = described if found is None else found[group]
                self.parts += self._leaves(part, (group,) if group else ())
            ends.append(sum(math.prod(box.shape) for _, box in self.parts))
        self.state = slice(*ends) if ends[1] > ends[0] else None
        """The state's features; None without."""
        if ends[0] == 0:
            raise UsageError(f"{name}: policies see no numbers; an observation of some is needed")

    def box(self, agents: int) -> spaces.Box:
        """Return the box `(agent, feature)` float32 of rows."""
        with np.errstate(over="ignore"):  # the largest float64 becomes infinite
            low, high = (
                np.concatenate([getattr(box, end).ravel() for _, box in self.parts]).astype("f4")
                for end in ("low", "high")
            )
        return spaces.Box(np.tile(low, (agents, 1)), np.tile(high, (agents, 1)), dtype=np.float32)

    def rows(self, obs: Any, infos: Any, where: str = "the observation") -> Tensor:
        """Return observations of all envs as new rows `(env, feature)` float32, without a graph.

        Args:
            obs: a tensor, or groups of them.
            infos: may have further groups as `infos["observations"]`.
            where: what it is, for messages.

        Raises:
            UsageError: a part is missing, is no tensor, or has another shape or device.
        """
        more = infos.get("observations") if hasattr(infos, "get") else None
        return torch.cat([self._one(obs, more, path, box, where) for path, box in self.parts], 1)

    def _one(self, obs: Any, more: Any, path: Path, box: spaces.Box, where: str) -> Tensor:
        found = obs
        for depth, key in enumerate(path):
            if depth == 0 and more is not None and not _has(found, key):
                found = more
            if not _has(found, key):
                raise UsageError(f"{self.name}: {where} has no {list(path)}, which its space has")
            found = found[key]
        at = f"{self.name}: {where}{''.join(f'[{key!r}]' for key in path)}"
        if not isinstance(found, Tensor):
            raise UsageError(
                f"{at} is a {type(found).__name__}; a torch.Tensor is needed of an env that has "
                "num_envs. If it gives NumPy arrays, make it a gymnasium.vector.VectorEnv"
            )
        if found.shape != (self.num_envs, *box.shape):
            raise UsageError(
                f"{at} has shape {tuple(found.shape)}; {(self.num_envs, *box.shape)} is needed, as "
                "of num_envs and the observation space"
            )
        if found.device != self.device:
            raise UsageError(f"{at} is on {found.device}, but the env's device is {self.device}")
        return found.detach().to(torch.float32).reshape(self.num_envs, math.prod(box.shape))

    def _choose(
        self, names: list[str] | None, policy: Sequence[str] | None, state: Sequence[str] | None
    ) -> tuple[list[str], list[str]]:
        """Return the groups that policies see, and those of the state; "" is all there is."""
        if names is None:
            if policy is not None or state:
                raise UsageError(
                    f"{self.name} has no groups of observations; leave out policy_groups and "
                    "state_groups"
                )
            return [""], []
        chosen = [] if state is None else list(state)
        if state is None:
            chosen = [group for group in STATE if group in names and group not in (policy or ())]
        usual = [group for group in POLICY if group in names][:1]
        if policy is not None:
            seen = list(policy)
        else:
            seen = usual or [group for group in names if group not in chosen]
        unknown = [group for group in [*seen, *chosen] if group not in names]
        if unknown:
            raise UsageError(
                f"{self.name} has no group {', '.join(unknown)} of observations; it has "
                f"{', '.join(names)}"
            )
        ignored = [group for group in names if group not in [*seen, *chosen, *STATE]]
        if ignored and policy is None and state is None:
            raise UsageError(
                f"{self.name} has the group {', '.join(ignored)} of observations beside "
                f"{', '.join([*seen, *chosen])}; say what policies and critics see: "
                'policy_groups=("policy",), state_groups=("critic",)'
            )
        return seen, chosen

    def _leaves(self, part: Any, path: Path) -> list[tuple[Path, spaces.Box]]:
        """Return the parts of a group, which may have groups itself."""
        found = _parts(part)
        if found is None:
            at = f"{self.name}: the observation {list(path)}" if path else f"{self.name}'s"
            return [(path, as_box(part, at, batched=True))]
        return [leaf for key in found for leaf in self._leaves(found[key], (*path, key))]


def _parts(described: Any) -> Any:
    """Return a mapping of groups; None if there are none."""
    inner = getattr(described, "spaces", described)
    return inner if hasattr(inner, "keys") else None


def _has(obs: Any, key: str) -> bool:
    return hasattr(obs, "keys") and key in list(obs.keys())


def as_box(space: Any, where: str, *, batched: bool = False) -> spaces.Box:
    """Return a box of Gymnasium's, of a space like it, or of a tensor.

    Args:
        space: has shape, low and high, as mjlab's own spaces; or a tensor `(env, ...)`.
        where: what it is, for messages.
        batched: whether tensors are taken.

    Raises:
        UsageError: it is none.
    """
    if isinstance(space, spaces.Box):
        return space
    if batched and isinstance(space, Tensor):
        return spaces.Box(-np.inf, np.inf, tuple(space.shape[1:]))
    shape, low = getattr(space, "shape", None), getattr(space, "low", None)
    high = getattr(space, "high", None)
    if shape is None or low is None or high is None:
        raise UsageError(f"{where} space is {space}, which is not supported; a Box is needed")
    ends = [np.broadcast_to(np.asarray(end, np.float32), shape) for end in (low, high)]
    return spaces.Box(ends[0].copy(), ends[1].copy(), dtype=np.float32)
