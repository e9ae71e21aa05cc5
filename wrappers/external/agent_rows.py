"""Between the spaces of agents, one each, and our padded rows of all agents."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.bounds import Bounds, float32_inside
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.raw_form import Answer, RawForm
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import flat_box
from diffsurrogate.wrappers.external.spaces import into_box, padded_box

MASK = "action_mask"
"""Where PettingZoo's envs say which choices are open: a key of observations, or of infos."""

_BY_WRAPPER = (
    "by a wrapper: pettingzoo.utils.BaseParallelWrapper, or gymnasium.Wrapper of an env whose "
    "spaces are Tuple"
)


class Layout:
    """Where every agent's observation and action lie in rows `(agent, feature)`.

    Observations are flattened as `gymnasium.spaces.flatten` does; a `Discrete(K)` action is a
    one-hot row. A `MultiDiscrete` action is one row per choice, each of a separate agent
    ("pursuer_0/0", "pursuer_0/1", ...) with the same observation. Rows with less than the longest
    are padded with zeros. After what agents see follow, in every row, the slice of the action mask
    and those of the global state, where there are any.
    """

    def __init__(self, raw: Any, *, masks_in_infos: bool = False, state_size: int = 0) -> None:
        """Read the agents and spaces of a parallel env.

        Args:
            raw: the env.
            masks_in_infos: whether its infos say which choices are open; observations are asked
                anyway.
            state_size: numbers of the global state; 0 to leave it out.

        Raises:
            UsageError: it does not list its agents, or has spaces that are not supported.
        """
        self.agents = list(getattr(raw, "possible_agents", None) or [])
        """All agents that may ever take part, by PettingZoo's names."""
        if not self.agents:
            raise UsageError(
                f"{name_of(raw)} has no possible_agents; list there every agent that may ever take "
                "part, so that tensors can have a place for each"
            )
        self.index = {agent: index for index, agent in enumerate(self.agents)}
        self.observation_spaces = [raw.observation_space(agent) for agent in self.agents]
        self.action_spaces = [raw.action_space(agent) for agent in self.agents]
        self.discrete = _are_discrete(self.agents, self.action_spaces)
        """Whether actions are choices; else they are boxes."""
        self.choices = [_choices(space) for space in self.action_spaces]
        """Per agent, how many of each of its choices there are; empty for a box."""
        counts = [max(1, len(sizes)) for sizes in self.choices]
        self.names = [
            f"{agent}/{row}" if isinstance(space, spaces.MultiDiscrete) else str(agent)
            for agent, space, count in zip(self.agents, self.action_spaces, counts, strict=True)
            for row in range(count)
        ]
        """Of our agents, one per row."""
        ends = np.cumsum(counts).tolist()
        self.rows = [slice(*pair) for pair in zip([0, *ends], ends, strict=False)]
        """Per agent, its rows."""
        self.seen_spaces = [
            _seen(space) if self.discrete else space for space in self.observation_spaces
        ]
        """Per agent, what it sees, without the action mask."""
        sizes, seen = _observations(self.agents, self.seen_spaces)
        self.observation_sizes = np.repeat(sizes, counts).tolist()
        """Per row, without the slice of the action mask and state."""
        self.action_sizes, self.action_box = _actions(self.action_spaces, self.choices)
        self.masks_in_infos = masks_in_infos and self.discrete
        self.action_mask_slice: slice | None = None
        self.global_state_slice: slice | None = None
        width = seen.shape[1]
        if self.masks_in_infos or self.seen_spaces != self.observation_spaces:
            self.action_mask_slice = slice(width, width + self.action_box.shape[1])
            width = self.action_mask_slice.stop
        if state_size > 0:
            self.global_state_slice = slice(width, width + state_size)
        shape = (len(self.names), width + state_size)
        low, high = np.full(shape, -np.inf, np.float32), np.full(shape, np.inf, np.float32)
        low[:, :width], high[:, :width] = 0, 1  # of the action mask
        low[:, : seen.shape[1]] = np.repeat(seen.low, counts, axis=0)
        high[:, : seen.shape[1]] = np.repeat(seen.high, counts, axis=0)
        self.observation_box = spaces.Box(low, high, dtype=np.float32)

    def same_as(self, other: "Layout") -> bool:
        """Return whether agents and spaces are the other's too."""
        return (
            self.agents == other.agents
            and self.observation_spaces == other.observation_spaces
            and self.action_spaces == other.action_spaces
        )

    def describe(self, env: MultiAgentVectorEnv) -> None:
        """Tell an env what is padding, whether actions are choices, and what columns are for."""
        acts = np.arange(self.action_box.shape[1]) < np.array(self.action_sizes)[:, None]
        env.valid_action_dims = torch.from_numpy(acts).to(env.device)
        env.observation_mask = torch.from_numpy(self._observation_mask()).to(env.device)
        env.discrete_actions = self.discrete
        env.action_mask_slice = self.action_mask_slice
        env.global_state_slice = self.global_state_slice

    def _observation_mask(self) -> NDArray[np.bool_]:
        mask = np.ones(self.observation_box.shape, dtype=bool)
        after = self.action_mask_slice or self.global_state_slice or slice(mask.shape[1], None)
        for row, seen, acted in zip(mask, self.observation_sizes, self.action_sizes, strict=True):
            row[seen : after.start] = False
            if self.action_mask_slice is not None:
                row[self.action_mask_slice][acted:] = False
        return mask

    def observed(
        self, agent: Any, obs: Any, info: Any, bounds: Bounds | None = None
    ) -> NDArray[np.float32]:
        """Return an agent's rows of the observation, without the global state.

        Raises:
            ValueError: observation or action mask is not of the agent's space, or out of `bounds`.
        """
        own = self.rows[self.index[agent]]
        rows = np.zeros_like(self.observation_box.low[own])
        what = "observation"
        try:
            seen = self.read(agent, obs)
            complaint = None if bounds is None else bounds.complaint(seen)
            if complaint is not None:
                raise ValueError(complaint)
            rows[:, : len(seen)] = seen
            if self.action_mask_slice is not None:
                what = MASK
                rows[:, self.action_mask_slice] = self.read_open(agent, obs, info)
            elif self.discrete and isinstance(info, dict) and MASK in info:
                what = MASK
                raise ValueError(
                    "in infos now, but was not after the first reset; give it from the reset on, "
                    "or in observations"
                )
        except ValueError as error:
            raise ValueError(f"the {what} of {agent!r} is {error}") from error
        return rows

    def read(self, agent: Any, obs: Any) -> NDArray[np.float32]:
        """Return what an agent sees as a vector, without padding and action mask.

        Raises:
            ValueError: it is not of the agent's space; the message goes on after "is".
        """
        space = self.seen_spaces[self.index[agent]]
        try:
            if not isinstance(space, spaces.Box):
                if isinstance(space, spaces.Dict):
                    obs = {key: obs[key] for key in space.spaces}
                return np.asarray(spaces.flatten(space, obs), dtype=np.float32)
            row = np.asarray(obs, dtype=np.float32)
        except Exception as error:
            kind = type(obs).__name__
            raise ValueError(f"a {kind} that is not of its space {space} ({error})") from error
        if row.shape != space.shape:
            raise ValueError(f"of shape {row.shape}; its space says {space.shape}")
        return row.ravel()

    def read_open(self, agent: Any, obs: Any, info: Any) -> NDArray[np.float32]:
        """Return which choices an agent has now, (row, choice), padded with zeros.

        They are all open where the agent has no mask, although others have one.

        Raises:
            ValueError: the mask is not one of the agent's choices; the message goes on after "is".
        """
        index = self.index[agent]
        sizes = self.choices[index]
        rows = np.zeros((len(sizes), self.action_box.shape[1]), np.float32)
        given: Any = np.ones(sum(sizes))
        if self.seen_spaces[index] != self.observation_spaces[index]:
            given = obs[MASK]
        elif self.masks_in_infos and isinstance(info, dict) and info.get(MASK) is not None:
            given = info[MASK]
        parts = given if isinstance(given, tuple | list) else (given,)
        mask = np.concatenate([np.ravel(np.asarray(part)) for part in parts])
        if mask.shape != (sum(sizes),) or not np.isin(mask, (0, 1)).all():
            raise ValueError(f"{mask.tolist()}; {sum(sizes)} entries of 0 or 1 are needed")
        for row, own in zip(rows, np.split(mask, np.cumsum(sizes)[:-1]), strict=True):
            row[: len(own)] = own
        return rows

    def external_actions(self, rows: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return what each agent's space takes for `rows` (env, row, act_dim) in the box.

        Padding is left out: a choice is the largest of the agent's own entries, so that a one-hot
        in the padding is the first.

        Returns:
            per agent, an array whose first axis is env.
        """
        return [self._external_action(agent, rows[:, own]) for agent, own in enumerate(self.rows)]

    def _external_action(self, agent: int, rows: NDArray[np.float32]) -> NDArray[Any]:
        space, sizes = self.action_spaces[agent], self.choices[agent]
        if not sizes:
            own = rows[:, 0, : self.action_sizes[self.rows[agent].start]]
            return into_box(own, space)
        chosen = [rows[:, row, :size].argmax(1) for row, size in enumerate(sizes)]
        shaped = np.stack(chosen, axis=1).reshape(-1, *space.shape)
        return (shaped + space.start).astype(space.dtype)


class LayoutForm(RawForm):
    """Of an env whose agents are laid out: a dict by its agents is read, and our own arrays."""

    def __init__(self, layout: Layout, own: RawForm) -> None:
        """Read by `layout`, and what is no dict as `own` does."""
        super().__init__(layout.agents, own.seen, own.acted, discrete=own.discrete)
        self.layout = layout

    def _read_dict(self, obs: Mapping[Any, Any]) -> tuple[Tensor, Answer]:
        layout = self.layout
        self._check_agents(obs)
        if layout.masks_in_infos:
            raise UsageError(
                "obs is a dict, but the infos of this env say which choices are open; give rows "
                f"(agent, obs_dim) = {tuple(self.seen.shape)} with the action mask at the columns "
                f"{layout.action_mask_slice}"
            )
        rows = np.zeros((1, *self.seen.shape), np.float32)
        for agent, given in obs.items():
            try:
                rows[0, layout.rows[layout.index[agent]]] = layout.observed(agent, given, None)
            except (ValueError, KeyError) as error:
                raise UsageError(f"{error}") from error

        def answer(action: Tensor) -> dict[Any, Any]:
            found = layout.external_actions(action.cpu().numpy())
            return {agent: found[layout.index[agent]][0] for agent in obs}

        return self._rows(rows), answer


def name_of(raw: Any) -> str:
    """Return what a PettingZoo env calls itself, or its class's name."""
    name = getattr(raw, "metadata", {}).get("name")
    return name if isinstance(name, str) else type(getattr(raw, "unwrapped", raw)).__name__


def _observations(
    agents: Sequence[Any], of_agents: Sequence[gymnasium.Space[Any]]
) -> tuple[list[int], spaces.Box]:
    boxes: list[spaces.Box] = []
    for agent, space in zip(agents, of_agents, strict=True):
        flat = flat_box(space)
        if flat is None:
            raise UsageError(
                f"the observations of agent {agent!r} are {space}, which cannot become a vector of "
                f"fixed size; make them one {_BY_WRAPPER}"
            )
        boxes.append(flat)
    with np.errstate(over="ignore"):  # the largest float64 becomes infinite
        padded = padded_box(boxes)
    low, high = np.minimum(padded.low, 0), np.maximum(padded.high, 0)  # who is gone observes zeros
    return [box.shape[0] for box in boxes], spaces.Box(low, high, dtype=np.float32)


def _choices(space: gymnasium.Space[Any]) -> list[int]:
    """Return how many there are of each choice of an action; none for a box."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.ravel()]
    return []


def _seen(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """Return the space of observations without the action mask."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces or len(space.spaces) == 1:
        return space
    return spaces.Dict({key: own for key, own in space.spaces.items() if key != MASK})


def _actions(
    of_agents: Sequence[gymnasium.Space[Any]], choices: Sequence[Sequence[int]]
) -> tuple[list[int], spaces.Box]:
    if any(choices):
        sizes = [size for own in choices for size in own]
        return sizes, spaces.Box(0, 1, (len(sizes), max(sizes)), np.float32)
    flat: Any = [spaces.flatten_space(space) for space in of_agents]
    boxes = [float32_inside(box) for box in flat]
    return [box.shape[0] for box in boxes], padded_box(boxes)


def _are_discrete(agents: Sequence[Any], of_agents: Sequence[gymnasium.Space[Any]]) -> bool:
    """Return whether all actions are choices; refuse what is neither that nor all boxes."""
    discrete = [isinstance(space, spaces.Discrete | spaces.MultiDiscrete) for space in of_agents]
    for agent, space, is_choice in zip(agents, of_agents, discrete, strict=True):
        is_box = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not is_choice and not is_box:
            raise UsageError(
                f"the actions of agent {agent!r} are {space}, which is not supported; only a Box "
                f"of floats, Discrete and MultiDiscrete are, make them one of these {_BY_WRAPPER}"
            )
    if any(discrete) and not all(discrete):
        one, other = agents[discrete.index(True)], agents[discrete.index(False)]
        raise UsageError(
            f"agent {one!r} has Discrete actions and agent {other!r} a Box; all agents must have "
            f"the same kind, make it so {_BY_WRAPPER}"
        )
    return all(discrete)
