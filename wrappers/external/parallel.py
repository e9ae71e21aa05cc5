"""One copy of a parallel env of agents: its rows, how it ends, and checks of what it returns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.agent_rows import Layout, name_of
from diffsurrogate.wrappers.external.infos import mean_of_agents, one_number

Rows = NDArray[np.float32]
FIELDS = ("observations", "rewards", "terminations", "truncations")


class ParallelEnvSlot:
    """A raw parallel env whose results are checked and laid out as rows `(agent, feature)`.

    PettingZoo ends agents one by one; `AgentsEnv` says what becomes of the world then. What
    became of agents that ended earlier does not matter, and an agent with both flags terminated.

    An agent that ends before the world does keeps the observation and reward that the env gave it
    in its last step. From the next step on both are zero and its actions go nowhere. Agents that
    are not there yet are treated alike.
    """

    def __init__(
        self, index: int, raw: Any, layout: Layout, bounds: dict[Any, Bounds | None], advice: str
    ) -> None:
        """Take over `raw`, the env at `index`, with bounds of its agents' observations.

        `advice` ends every message.
        """
        self.raw, self.index, self._advice = raw, index, advice
        self._layout, self._bounds = layout, bounds
        self._alive: list[Any] = []
        self._steps = 0
        self.busy = False
        """Whether a call has not returned yet."""
        self.told: dict[str, float] = {}
        """Numbers in the infos of the last step, each the mean over agents."""

    def reset(self, seed: int | None, options: dict[str, Any]) -> Rows:
        """Reset the env, with a seed or from its current random state, and with options if any.

        Returns:
            obs (agent, obs_dim).

        Raises:
            UsageError: what the env gave does not keep to the parallel API.
        """
        self._steps = 0
        asked = {"seed": seed, "options": options or None}
        known = {name: value for name, value in asked.items() if value is not None}
        given = self._call("reset", **known)
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._wrong("reset() must return observations and infos, two dicts")
        self._alive = self._agents_now()
        if not self._alive:
            raise self._wrong("agents is empty after reset()")
        obs = self._column("observations", given[0], self._alive)
        return self._observations(obs, self._alive, given[1])

    def step(self, actions: dict[Any, Any]) -> tuple[Rows, Rows, bool, bool]:
        """Advance by one step.

        Args:
            actions: of all agents; those of agents that are gone are left out.

        Returns:
            obs (agent, obs_dim), reward (agent,), terminated and truncated.

        Raises:
            UsageError: what the env gave does not keep to the parallel API.
        """
        self._steps += 1
        before = self._alive
        given = self._call("step", {agent: actions[agent] for agent in before})
        if not isinstance(given, tuple) or len(given) != 5:
            raise self._wrong(f"step() must return five dicts: {', '.join(FIELDS)}, infos")
        obs, rewards, terminations, truncations = (
            self._column(field, values, before)
            for field, values in zip(FIELDS, given[:4], strict=True)
        )
        self.told = mean_of_agents(given[4])
        self._alive = self._agents_now()
        newcomers = [agent for agent in self._alive if agent not in before]
        cut = [agent for agent in before if truncations[agent] and not terminations[agent]]
        gone = {agent for agent in before if terminations[agent] or truncations[agent]}
        self._check_agents(before, gone)
        self._column("observations", obs, newcomers)
        over = not self._alive
        return (
            self._observations(obs, before + newcomers, given[4]),
            self._rewards(rewards, before),
            over and not cut,
            over and bool(cut),
        )

    def alive_mask(self) -> NDArray[np.bool_]:
        """Return for each row whether its agent is there now, (agent,)."""
        there = [agent in self._alive for agent in self._layout.agents]
        return np.repeat(there, [rows.stop - rows.start for rows in self._layout.rows])

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.busy = True
        try:
            return getattr(self.raw, method)(*args, **kwargs)
        except UsageError as error:
            raise self._wrong(f"{error}") from error
        except Exception as error:
            raise self._wrong(f"{method}() raised {type(error).__name__}: {error}") from error
        finally:
            self.busy = False

    def _agents_now(self) -> list[Any]:
        """Return a new list of the agents that are alive."""
        agents = list(self.raw.agents)
        unknown = [agent for agent in agents if agent not in self._layout.index]
        if unknown:
            raise self._wrong(f"agents has {unknown}, which possible_agents has not")
        return agents

    def _check_agents(self, before: list[Any], gone: set[Any]) -> None:
        """Refuse agents that stay although they ended, or leave without having ended."""
        for agent in before:
            if agent in gone and agent in self._alive:
                raise self._wrong(
                    f"{agent!r} ended by its terminations or truncations, but is still in agents; "
                    "take it out in the step in which it ends (after the last, agents is empty)"
                )
            if agent not in gone and agent not in self._alive:
                raise self._wrong(
                    f"{agent!r} has left agents, but neither terminations nor truncations is True "
                    "for it; say which"
                )

    def _column(self, field: str, values: Any, agents: list[Any]) -> dict[Any, Any]:
        """Return the values, which must be there for all of `agents`."""
        if not isinstance(values, dict):
            raise self._wrong(f"{field} is a {type(values).__name__}; a dict by agent is needed")
        missing = [agent for agent in agents if agent not in values]
        if missing:
            raise self._wrong(f"{field} lacks {missing}; every agent that was alive must be there")
        return values

    def _observations(self, obs: dict[Any, Any], agents: list[Any], infos: Any) -> Rows:
        layout = self._layout
        rows = np.zeros(layout.observation_box.shape, np.float32)
        for agent in agents:
            info = infos.get(agent) if isinstance(infos, dict) else None
            try:
                seen = layout.observed(agent, obs[agent], info, self._bounds[agent])
            except ValueError as error:
                raise self._wrong(str(error)) from error
            rows[layout.rows[layout.index[agent]]] = seen
        if layout.global_state_slice is not None:
            rows[:, layout.global_state_slice] = self._state(layout.global_state_slice)
        return rows

    def _state(self, columns: slice) -> Rows:
        """Return the global state, a vector."""
        try:
            row = np.asarray(self._call("state"), dtype=np.float32).ravel()
        except (TypeError, ValueError) as error:
            raise self._wrong(f"state() gives no numbers: {error}") from error
        size = columns.stop - columns.start
        if row.shape != (size,):
            raise self._wrong(f"state() gives {len(row)} numbers, but gave {size} before")
        return row

    def _rewards(self, rewards: dict[Any, Any], agents: list[Any]) -> Rows:
        layout = self._layout
        row = np.zeros(len(layout.names), np.float32)
        for agent in agents:
            own = layout.rows[layout.index[agent]]
            try:
                row[own] = float(one_number(rewards[agent])) / (own.stop - own.start)
            except (TypeError, ValueError) as error:
                raise self._wrong(
                    f"the reward of {agent!r} is {rewards[agent]!r}; a number is needed"
                ) from error
        return row

    def _wrong(self, what: str) -> UsageError:
        """Return the error that says which copy did it, and when."""
        when = f"step {self._steps} of its episode" if self._steps else "reset"
        return UsageError(f"{name_of(self.raw)}, env {self.index}, {when}: {what}. {self._advice}")
