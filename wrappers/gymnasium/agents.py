"""Gymnasium envs of several agents: tuples of spaces, observations and rewards, one per agent."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import PassiveEnvChecker
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.raw_form import Answer
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_distinct, sub_envs_of
from diffsurrogate.wrappers.external.agent_rows import LayoutForm
from diffsurrogate.wrappers.external.agents import AgentsEnv


class GymnasiumAgentsEnv(AgentsEnv):
    """Copies of a Gymnasium env whose observations and actions are `Tuple` spaces, one per agent.

    rware, lbforaging and highway-env's envs of several agents are such. Agents are called
    "agent_0", "agent_1", ...; how they are laid out and end is told in `AgentsEnv`. A step may give
    one reward for each agent, or one for all, of which each earns an equal share; likewise flags,
    of which one is all agents'. An agent that ended before the others does nothing from then on:
    its first choice, or what is nearest to zero in its box.
    """

    library = "Gymnasium"
    advice = "Its spaces are tuples, so it is taken for an env of several agents"

    def __init__(
        self,
        raws: list[Any],
        *,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        check_bounds: bool = True,
    ) -> None:
        """Take over `raws`, which must not be used directly from now on.

        Args:
            raws: envs that are alike, each another object; see `is_of_agents`.
            max_steps, seed, device, check_bounds: see `ExternalEnv`. Envs that call their own time
                limit a termination (rware, lbforaging) need a `max_steps` below it.

        Raises:
            UsageError: the spaces are not supported, or the copies differ.
        """
        check_distinct(raws)
        limits = [None if raw.spec is None else raw.spec.max_episode_steps for raw in raws]
        super().__init__(
            [AgentsByName(raw) for raw in raws],
            limits=limits,
            max_steps=max_steps,
            seed=seed,
            device=device,
            check_bounds=check_bounds,
        )
        self.spec = raws[0].spec

    @classmethod
    def from_raw(
        cls,
        raw: Any,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt one env, of which a function makes others."""
        raws = sub_envs_of(raw, num_envs, make_another, "gymnasium.Env")
        return super().from_raw(raws, **options)

    @property
    def raw_form(self) -> LayoutForm:
        """How Gymnasium's env gives observations and takes actions: tuples, or dicts by agent."""
        return _TupleForm(self._layout, super().raw_form)


class AgentsByName:
    """Such an env with PettingZoo's parallel API, in dicts by agent."""

    def __init__(self, raw: gymnasium.Env[Any, Any]) -> None:
        """Take over `raw`, without Gymnasium's checker, which knows one reward only."""
        layer = raw
        while isinstance(layer, gymnasium.Wrapper):
            if isinstance(layer.env, PassiveEnvChecker):
                layer.env = layer.env.env
            layer = layer.env
        self.raw: Any = raw
        self.unwrapped = raw.unwrapped
        self.metadata, self.render_mode = raw.metadata, raw.render_mode
        self._sees, self._acts = _parts(raw.observation_space), _parts(raw.action_space)
        self.possible_agents = [f"agent_{index}" for index in range(len(self._acts))]
        self.agents: list[str] = []
        self.render, self.close = raw.render, raw.close

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return what an agent sees."""
        return self._sees[self.possible_agents.index(agent)]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return what an agent does."""
        return self._acts[self.possible_agents.index(agent)]

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode of all agents."""
        obs, info = self.raw.reset(**options)
        self.agents = self.possible_agents[:]
        return self._each("observation", obs), self._infos(info)

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Step with the actions of those agents that have not ended."""
        spaces_of = zip(self.possible_agents, self._acts, strict=True)
        joint = tuple(actions[a] if a in actions else _nothing(space) for a, space in spaces_of)
        obs, reward, *flags, info = self.raw.step(joint)
        if np.ndim(reward) == 0:
            reward = [reward / len(joint)] * len(joint)
        terminated, truncated = (
            self._each(field, [flag] * len(joint) if np.ndim(flag) == 0 else flag)
            for field, flag in zip(("terminated", "truncated"), flags, strict=True)
        )
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        each = self._each("observation", obs), self._each("reward", reward)
        return *each, terminated, truncated, self._infos(info)

    def _infos(self, info: Any) -> dict[str, Any]:
        shared = [info] * len(self.possible_agents) if isinstance(info, dict) else info
        return self._each("info", shared)

    def _each(self, field: str, values: Any) -> dict[str, Any]:
        count = len(self.possible_agents)
        if not isinstance(values, tuple | list | np.ndarray) or len(values) != count:
            given = type(values).__name__
            given += f" of {len(values)}" if hasattr(values, "__len__") else ""
            raise UsageError(f"its {field} is a {given}; one for each of {count} agents is needed")
        return dict(zip(self.possible_agents, values, strict=True))


class _TupleForm(LayoutForm):
    """A tuple of all agents' observations is read too, and answered by one of actions."""

    def read(self, obs: Any) -> tuple[Tensor, Answer]:
        if not isinstance(obs, tuple | list) or len(obs) != len(self.layout.agents):
            return super().read(obs)
        rows, answer = super().read(dict(zip(self.layout.agents, obs, strict=True)))
        return rows, lambda action: tuple(answer(action).values())


def is_of_agents(observations: gymnasium.Space[Any], actions: gymnasium.Space[Any]) -> bool:
    """Return whether both are `Tuple` spaces of one length: an observation and action per agent."""
    return 0 < len(_parts(actions)) == len(_parts(observations))


def _parts(space: gymnasium.Space[Any]) -> tuple[gymnasium.Space[Any], ...]:
    return space.spaces if isinstance(space, spaces.Tuple) else ()


def _nothing(space: gymnasium.Space[Any]) -> Any:
    """Return the first choice, or what is nearest to zero in a box."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else None
