"""What the env behind one of ours gives and takes: its observations as rows, our rows as actions.

For policies that act outside of our envs, where a user steps the raw env.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.errors import UsageError, did_you_mean

Answer = Callable[[Tensor], Any]
"""Returns actions `(env, agent, act_dim)` in the form of the observations that they answer."""


class RawForm:
    """The form of an env whose arrays have our axes.

    Observations are `(agent, obs_dim)` or `(env, agent, obs_dim)`, of a single agent `(obs_dim,)`
    or `(env, obs_dim)` too; or a dict by agent, without padding and global state. An action has the
    observation's leading axes, a discrete one is its number.
    """

    def __init__(
        self, agents: Sequence[str], seen: Tensor, acted: Tensor, *, discrete: bool
    ) -> None:
        """Describe the env.

        Args:
            agents: their names.
            seen: (agent, obs_dim) bool, what is neither padding nor global state.
            acted: (agent, act_dim) bool, what is no padding.
            discrete: whether actions are discrete.
        """
        self.agents = list(agents)
        self.seen, self.acted, self.discrete = seen, acted, discrete

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Of one observation in a batch: (agent, obs_dim), or (obs_dim,) of a single agent."""
        agents, obs_dim = self.seen.shape
        return (obs_dim,) if agents == 1 else (agents, obs_dim)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of the action that answers it: (agent, act_dim), without either axis if it is alone."""
        agents, act_dim = self.acted.shape
        axes = (agents,) if agents > 1 else ()
        return axes if self.discrete else (*axes, act_dim)

    @property
    def first_choice(self) -> int | NDArray[np.integer[Any]]:
        """The least number of a discrete action, or of each of its choices."""
        return 0

    def read(self, obs: Any) -> tuple[Tensor, Answer]:
        """Return observations as rows `(env, agent, obs_dim)` float32, and what answers them.

        Args:
            obs: of one copy of the env or a batch, NumPy or torch, as the answer then is.

        Raises:
            UsageError: `obs` has another shape, or a dict other agents.
        """
        if isinstance(obs, Mapping):
            return self._read_dict(obs)
        shape, (agents, obs_dim) = tuple(np.shape(obs)), self.seen.shape
        alone = agents == 1 and shape[-1:] == (obs_dim,) and len(shape) < 3
        axes = shape if not alone else (*shape[:-1], 1, obs_dim)
        if len(axes) not in (2, 3) or axes[-2:] != (agents, obs_dim):
            raise UsageError(f"obs has the shape {shape}; {self._needed()}")
        lead = shape[:-1]

        def answer(action: Tensor) -> Any:
            if self.discrete:
                own = action.masked_fill(~self.acted, -1.0).argmax(-1).reshape(lead)
            else:
                own = action.reshape(*lead, -1)
            return in_kind_of(obs, own)

        return self._rows(obs).reshape(-1, agents, obs_dim), answer

    def _needed(self) -> str:
        """Return which shapes are read, for messages."""
        agents, obs_dim = self.seen.shape
        short = f"(obs_dim,) = ({obs_dim},), (env, {obs_dim}), " if agents == 1 else ""
        return f"give {short}(agent, obs_dim) = ({agents}, {obs_dim}) or (env, {agents}, {obs_dim})"

    def _rows(self, given: Any) -> Tensor:
        return float32_rows(given, self.seen.device)

    def _read_dict(self, obs: Mapping[Any, Any]) -> tuple[Tensor, Answer]:
        """Read what some agents see in one copy; those that are gone observe zeros."""
        self._check_agents(obs)
        rows = torch.zeros(1, *self.seen.shape, device=self.seen.device)
        places = {agent: self.agents.index(agent) for agent in obs}
        for agent, place in places.items():
            own, needed = self._rows(obs[agent]), int(self.seen[place].sum())
            if own.shape != (needed,):
                raise UsageError(
                    f"the observation of {agent!r} has the shape {tuple(own.shape)}; ({needed},) "
                    "is needed"
                )
            rows[0, place, self.seen[place]] = own

        def answer(action: Tensor) -> dict[Any, Any]:
            found = {}
            for agent, place in places.items():
                own = action[0, place, self.acted[place]]
                found[agent] = in_kind_of(obs[agent], own.argmax() if self.discrete else own)
            return found

        return rows, answer

    def _check_agents(self, obs: Mapping[Any, Any]) -> None:
        unknown = [agent for agent in obs if agent not in self.agents]
        if unknown or not obs:
            hint = did_you_mean(str(unknown[0]), map(str, self.agents)) if unknown else ""
            raise UsageError(
                f"obs has the keys {list(obs)}; give an observation of each of the agents "
                f"{', '.join(map(str, self.agents))}{hint}; or, in rows, {self._needed()}"
            )


def float32_rows(given: Any, device: torch.device) -> Tensor:
    """Return observations in NumPy, torch or lists as float32 on a device.

    Raises:
        UsageError: they are no real numbers.
    """
    if isinstance(given, Tensor):
        return given.detach().to(device, torch.float32)
    rows = np.asarray(given)
    if rows.dtype.kind not in "biuf":
        raise UsageError(f"obs is a {type(given).__name__} of {rows.dtype}; numbers are needed")
    return torch.tensor(rows.astype(np.float32), device=device)


def in_kind_of(obs: Any, action: Tensor) -> Any:
    """Return an action as what it answers: a tensor on its device, or NumPy."""
    return action.to(obs.device) if isinstance(obs, Tensor) else action.cpu().numpy()[()]
