"""A toy of discrete actions whose rewards are the numbers chosen."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffsurrogate.envs.torch_env import TorchEnv, TorchState


class Choices(TorchEnv):
    """Agents choose among a few numbers; where places add up to 2, the episode ends."""

    discrete_actions = True
    render_mode = "rgb_array"

    def __init__(self, *, num_envs: int = 5, agents: int = 3, choices: int = 3) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=[f"agent_{i}" for i in range(agents)],
            obs_dim=2,
            act_dim=choices,
            max_steps=4,
        )

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.rand(count, self.num_agents, 2, generator=generator)}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + action.argmax(-1, keepdim=True)}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return action.argmax(-1).float()

    def terminated(self, state: TorchState) -> Tensor:
        return (state["x"] >= 2).any(-1).any(-1)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        return [np.full((2, 3, 3), index, np.uint8) for index in range(self.num_envs)]
