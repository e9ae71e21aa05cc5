"""Hand-made PettingZoo envs: agents that come and go by plan, and one that breaks the rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

SIZES = {"a": 2, "b": 3, "c": 5}
"""How much each agent observes; it does one number less."""
TERMINATE, TRUNCATE, BOTH = "terminations", "truncations", "both"


class Turnover(ParallelEnv):
    """Three agents that come and go by plan; they observe 10 × agent + steps + 1 in all entries."""

    metadata = {"name": "lives", "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, ends: dict[str, tuple[int, str]], *, late: str = "", **action_spaces: Any):
        self.possible_agents = list(SIZES)
        self.ends, self.late = ends, late
        self.observed = {a: spaces.Box(-1e6, -1e-6, (n,), np.float64) for a, n in SIZES.items()}
        self.acts = {a: spaces.Box(-2, 3, (n - 1,)) for a, n in SIZES.items()} | action_spaces
        self.got: dict[str, Any] = {}

    def observation_space(self, agent: str) -> Any:
        return self.observed[agent]

    def action_space(self, agent: str) -> Any:
        return self.acts[agent]

    def observe(self, agent: str) -> Any:
        value = 10 * self.possible_agents.index(agent) + self.steps + 1
        return np.full(self.observed[agent].shape, -value, np.float64)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        self.agents = [agent for agent in SIZES if agent != self.late]
        return {agent: self.observe(agent) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        self.steps += 1
        self.got = actions
        assert list(actions) == self.agents
        assert all(self.acts[agent].contains(action) for agent, action in actions.items())
        rewards = {a: 100 * self.steps + self.possible_agents.index(a) for a in self.agents}
        over = {a: self.ends[a] == (self.steps, self.ends[a][1]) for a in self.agents}
        flags = [
            {a: over[a] and self.ends[a][1] in (kind, BOTH) for a in self.agents}
            for kind in (TERMINATE, TRUNCATE)
        ]
        self.agents = [agent for agent in self.agents if not over[agent]]
        if self.steps == 2 and self.late:
            self.agents.append(self.late)
        obs = {agent: self.observe(agent) for agent in [*rewards, *self.agents]}
        return obs, rewards, *flags, {}

    def render(self) -> Any:
        return np.full((2, 5, 3), self.steps, np.uint8)


class RuleBreaker(Turnover):
    """Number 4 breaks the rules in its third step."""

    made = 0

    def __init__(self, lie: Callable[["RuleBreaker", list[Any]], Any]) -> None:
        super().__init__(dict.fromkeys(SIZES, (9, TERMINATE)))
        self.lie, self.number = lie, RuleBreaker.made
        RuleBreaker.made += 1

    def step(self, actions: dict[str, Any]) -> Any:
        result = list(super().step(actions))
        if self.number == 4 and self.steps == 3:
            changed = self.lie(self, result)
            return tuple(result) if changed is None else changed
        return tuple(result)


def lives(*ends: tuple[int, str], **options: Any) -> Turnover:
    return Turnover(dict(zip(SIZES, ends, strict=True)), **options)
