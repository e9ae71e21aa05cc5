"""An env whose every number can be worked by hand."""

import gymnasium
import numpy as np
import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State

ENVS, AGENTS, OBS, ACT = 7, 3, 5, 2
ZERO = torch.zeros(ENVS, AGENTS, ACT)


def box(low: float, high: float, features: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(low, high, (AGENTS, features), np.float32)


class Adder(MultiAgentVectorEnv):
    """Adds the sum of the actions to every feature; reward is the first feature's new value."""

    def __init__(self, *, max_steps: int | None = None, goal: float = float("inf")) -> None:
        super().__init__(
            num_envs=ENVS,
            agents=["a", "b", "c"],
            observation_space=box(-np.inf, np.inf, OBS),
            action_space=box(-1, 1, ACT),
            gradients={"dynamics", "reward"},
            max_steps=max_steps,
        )
        self.goal = goal
        self.generator = torch.Generator()
        self.obs = torch.zeros(ENVS, AGENTS, OBS)

    def _draw(self) -> Tensor:
        return torch.rand(ENVS, AGENTS, OBS, generator=self.generator)

    def _reset_all(self, seed: int | None) -> Tensor:
        if seed is not None:
            self.generator.manual_seed(seed)
        self.obs = self._draw()
        return self.obs

    def _reset_where(self, mask: Tensor) -> Tensor:
        self.obs = torch.where(mask[:, None, None], self._draw(), self.obs)
        return self.obs

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.obs = self.obs + action.sum(-1, keepdim=True)
        return self.obs, self.obs[..., 0], self.obs[:, 0, 0] >= self.goal


class Savable(Adder):
    def detach(self) -> None:
        self.obs = self.obs.detach()
        self._current = self.current_obs.detach()

    def _save(self) -> State:
        return {"obs": self.obs.detach().clone(), "generator": self.generator.get_state()}

    def _restore(self, state: State) -> None:
        self.obs = state["obs"].clone()
        self.generator.set_state(state["generator"])
