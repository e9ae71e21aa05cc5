"""Between PettingZoo's spaces, one per agent, and our padded rows of all agents."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.raw_env import flat_box
from diffsurrogate.wrappers.vmas_spaces import padded_box


class Layout:
    """Where every agent's observation and action lie in rows `(agent, feature)`.

    Observations are flattened as `gymnasium.spaces.flatten` does; a `Discrete(K)` action is a
    one-hot row. Rows of agents with less than the longest are padded with zeros at their end.
    """

    def __init__(self, raw: Any) -> None:
        """Read the agents and spaces of a parallel env.

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
        self.observation_sizes, self.observation_box = _observations(
            self.agents, self.observation_spaces
        )
        self.action_sizes, self.action_box = _actions(self.action_spaces, self.discrete)

    def same_as(self, other: "Layout") -> bool:
        """Return whether agents and spaces are the other's too."""
        return (
            self.agents == other.agents
            and self.observation_spaces == other.observation_spaces
            and self.action_spaces == other.action_spaces
        )

    def read(self, agent: Any, obs: Any) -> NDArray[np.float32]:
        """Return an agent's observation as a vector, without padding.

        Raises:
            ValueError: it is not of the agent's space; the message goes on after "is".
        """
        space = self.observation_spaces[self.index[agent]]
        try:
            if not isinstance(space, spaces.Box):
                return np.asarray(spaces.flatten(space, obs), dtype=np.float32)
            row = np.asarray(obs, dtype=np.float32)
        except Exception as error:
            kind = type(obs).__name__
            raise ValueError(f"a {kind} that is not of its space {space} ({error})") from error
        if row.shape != space.shape:
            raise ValueError(f"of shape {row.shape}; its space says {space.shape}")
        return row.ravel()

    def raw_actions(self, rows: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return what each agent's space takes for `rows` (env, agent, act_dim) in the box.

        Padding is left out: a choice is the largest of the agent's own entries, so that a one-hot
        in the padding is the first.

        Returns:
            per agent, an array whose first axis is env.
        """
        return [self._raw_action(agent, rows[:, agent]) for agent in range(len(self.agents))]

    def _raw_action(self, agent: int, rows: NDArray[np.float32]) -> NDArray[Any]:
        space, own = self.action_spaces[agent], rows[:, : self.action_sizes[agent]]
        if isinstance(space, spaces.Discrete):
            return own.argmax(1).astype(space.dtype) + space.start
        shaped = own.reshape(-1, *space.shape).astype(space.dtype)
        return np.clip(shaped, space.low, space.high)  # float64 bounds, as float32, can lie outside


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
                "fixed size; make them one in a pettingzoo.utils.BaseParallelWrapper"
            )
        boxes.append(flat)
    with np.errstate(over="ignore"):  # the largest float64 becomes infinite
        padded = padded_box(boxes)
    low, high = np.minimum(padded.low, 0), np.maximum(padded.high, 0)  # who is gone observes zeros
    return [box.shape[0] for box in boxes], spaces.Box(low, high, dtype=np.float32)


def _actions(
    of_agents: Sequence[gymnasium.Space[Any]], discrete: bool
) -> tuple[list[int], spaces.Box]:
    boxes: Any = [spaces.flatten_space(space) for space in of_agents]
    sizes = [box.shape[0] for box in boxes]
    if discrete:
        return sizes, spaces.Box(0, 1, (len(boxes), max(sizes)), np.float32)
    with np.errstate(over="ignore"):
        return sizes, padded_box(boxes)


def _are_discrete(agents: Sequence[Any], of_agents: Sequence[gymnasium.Space[Any]]) -> bool:
    """Return whether all actions are choices; refuse what is neither that nor all boxes."""
    discrete = [isinstance(space, spaces.Discrete) for space in of_agents]
    for agent, space, is_choice in zip(agents, of_agents, discrete, strict=True):
        is_box = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not is_choice and not is_box:
            raise UsageError(
                f"the actions of agent {agent!r} are {space}, which is not supported; only a Box "
                "of floats and Discrete are, make them one of these in a "
                "pettingzoo.utils.BaseParallelWrapper"
            )
    if any(discrete) and not all(discrete):
        one, other = agents[discrete.index(True)], agents[discrete.index(False)]
        raise UsageError(
            f"agent {one!r} has Discrete actions and agent {other!r} a Box; all agents must have "
            "the same kind, make it so in a pettingzoo.utils.BaseParallelWrapper"
        )
    return all(discrete)
