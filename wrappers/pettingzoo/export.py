"""Our envs for code that takes PettingZoo's: one copy as a parallel env.

PettingZoo is imported here and in `pettingzoo` only; install it as the extra `pettingzoo`.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError

try:
    from pettingzoo.utils.env import ParallelEnv
except ImportError as error:
    raise UsageError(
        "exporting to PettingZoo needs it installed, an optional extra: "
        f'pip install "diffsurrogate[pettingzoo]" ({error})'
    ) from error


TRIED_BY_PETTINGZOO = {"options": 1}
"""What PettingZoo's own tests give any env, which no env knows; all else is obeyed or refused."""


class ExportedEnv(ParallelEnv):  # type: ignore[misc]
    """One of our envs as a PettingZoo parallel env, NumPy in and out.

    Every agent has its own space, without padding: float32 boxes, and `Discrete` actions where
    the env has `discrete_actions`. All agents of ours end together: the step that ends an episode
    gives the observation before the reset, and then `agents` is empty until `reset`. Which choices
    are open (`action_mask_slice`) is `infos[agent]["action_mask"]`, int8, and the global
    state (`global_state_slice`) is `state()`; observations have neither.

    Example:
        >>> from diffsurrogate import make

        >>> env = as_pettingzoo(make("paper/dispersion", num_envs=1, n_agents=3, max_steps=320))
        >>> observations, infos = env.reset(seed=0)
    """

    def __init__(self, env: Any) -> None:
        """Take over `env`, which must not be stepped by others from now on.

        Args:
            env: one of ours, or anything `as_multi_agent` knows, with a single copy.

        Raises:
            UsageError: it has more than one copy, or there is no adapter for it.
        """
        self.env: MultiAgentVectorEnv = as_multi_agent(env)
        """The env behind it."""
        env = self.env
        if env.num_envs != 1:
            raise UsageError(
                f"num_envs is {env.num_envs}, but a PettingZoo env is a single world; make the env "
                "with num_envs=1"
            )
        self.possible_agents = list(env.agents)
        self.agents: list[str] = []
        self._is_fresh = False
        modes = list(env.metadata.get("render_modes", []))
        name = {"name": type(env).__name__, "is_parallelizable": True, "render_modes": modes}
        self.metadata = name | {k: v for k, v in env.metadata.items() if k != "autoreset_mode"}
        self.render_mode = env.render_mode
        own = env.observation_mask.clone()
        for columns in (env.action_mask_slice, env.global_state_slice):
            if columns is not None:
                own[:, columns] = False
        self._seen = [mask.cpu().numpy() for mask in own]
        self._used = [mask.cpu().numpy() for mask in env.valid_action_dims]
        seen, used = env.single_observation_space, env.single_action_space
        assert isinstance(seen, spaces.Box) and isinstance(used, spaces.Box)
        self.state_space: spaces.Box | None = None
        if env.global_state_slice is not None:
            low, high = (end[0, env.global_state_slice] for end in (seen.low, seen.high))
            self.state_space = spaces.Box(low, high, dtype=np.float32)
        self._state: NDArray[np.float32] | None = None
        self._observation_spaces, self._action_spaces = {}, {}
        for index, agent in enumerate(env.agents):
            own = self._seen[index]
            box = spaces.Box(seen.low[index, own], seen.high[index, own], dtype=np.float32)
            self._observation_spaces[agent] = box
            own = self._used[index]
            box = spaces.Box(used.low[index, own], used.high[index, own], dtype=np.float32)
            choices = spaces.Discrete(int(own.sum()))
            self._action_spaces[agent] = choices if env.discrete_actions else box

    def observation_space(self, agent: str) -> spaces.Box:
        """Return the space of an agent's observations, the same object every time."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box | spaces.Discrete:
        """Return the space of an agent's actions, the same object every time."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]:
        """Reset the env; after the end of an episode, return where it has reset itself to.

        Without a seed it goes on with the random state there is.
        """
        if options == TRIED_BY_PETTINGZOO:
            options = None
        if not (self._is_fresh and seed is None and options is None):
            with torch.no_grad():
                self.env.reset(seed=seed, options=options)
        self._is_fresh = False
        self.agents = self.possible_agents[:]
        obs = self.env.current_obs
        return self._rows(obs), self._infos(obs, self.agents)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, NDArray[np.float32]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Advance by one step, with boxes clamped; return nothing if the episode is over.

        Raises:
            UsageError: an agent's action is missing or not of its space, or `reset` was not called.
        """
        _ = self.env.current_obs
        if not self.agents:
            return {}, {}, {}, {}, {}
        action = self._action(actions)
        with torch.no_grad():
            _, reward, terminated, truncated, info = self.env.step(action)
        over, cut = bool(terminated), bool(truncated)
        agents, self._is_fresh = self.agents, over or cut
        self.agents = [] if over or cut else agents
        return (
            self._rows(info["final_obs"]),
            dict(zip(agents, reward[0].tolist(), strict=True)),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, cut),
            self._infos(info["final_obs"], agents),
        )

    def state(self) -> NDArray[np.float32]:
        """Return the global state, (size,): after the end of an episode, that in which it ended.

        Raises:
            NotImplementedError: the env has none.
            UsageError: it was never reset.
        """
        if self.env.global_state_slice is None:
            raise NotImplementedError(
                "this env gives no global state; make it with state=True where it has one"
            )
        if self._state is None:
            raise UsageError("the env was not reset; call reset() before state()")
        return self._state

    def render(self) -> NDArray[np.uint8]:
        """Draw the world as it stands; after the end of an episode, that is the next one.

        Returns:
            a frame `(height, width, 3)` uint8.

        Raises:
            UsageError: the env cannot be drawn, or was not made for it.
        """
        try:
            frames: Any = self.env.render()
        except NotImplementedError as error:
            raise UsageError(
                f"{type(self.env).__name__} has no pictures: give it render"
            ) from error
        return np.asarray(frames[0])

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def _rows(self, obs: Tensor) -> dict[str, NDArray[np.float32]]:
        """Return obs `(1, agent, obs_dim)` by agent, without padding."""
        rows = obs[0].detach().cpu().numpy()
        return {
            agent: rows[index, own].copy()
            for index, (agent, own) in enumerate(zip(self.possible_agents, self._seen, strict=True))
        }

    def _infos(self, obs: Tensor, agents: list[str]) -> dict[str, dict[str, Any]]:
        """Keep the state that goes with obs `(1, agent, obs_dim)`; return infos by agent."""
        if self.env.global_state_slice is not None:
            self._state = obs[0, 0, self.env.global_state_slice].detach().cpu().numpy().copy()
        columns = self.env.action_mask_slice
        if columns is None:
            return {agent: {} for agent in agents}
        masks = available_actions(obs[0], columns).cpu().numpy().astype(np.int8)
        return {
            agent: {"action_mask": mask[used]}
            for agent, mask, used in zip(agents, masks, self._used, strict=True)
        }

    def _action(self, actions: dict[str, Any]) -> Tensor:
        """Return actions by agent as `(1, agent, act_dim)`, padded with zeros."""
        if set(actions) != set(self.agents):
            raise UsageError(
                f"there are actions of {sorted(actions)}; exactly one of each of {self.agents} is "
                "needed"
            )
        rows = np.zeros((1, self.env.num_agents, self.env.act_dim), np.float32)
        for index, agent in enumerate(self.agents):
            space, own = self._action_spaces[agent], np.flatnonzero(self._used[index])
            action = np.asarray(actions[agent])
            if isinstance(space, spaces.Discrete):
                if action.shape != () or not 0 <= (choice := int(action)) < space.n:
                    raise UsageError(
                        f"the action of {agent!r} is {actions[agent]!r}; its space is {space}"
                    )
                rows[0, index, own[choice]] = 1
            elif action.shape != space.shape:
                raise UsageError(
                    f"the action of {agent!r} has shape {action.shape}; its space is {space}"
                )
            else:
                rows[0, index, own] = action
        return torch.from_numpy(rows).to(self.env.device)


as_pettingzoo = ExportedEnv
