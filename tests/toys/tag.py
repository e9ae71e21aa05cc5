"""A chaser and a runner on a line: what one earns the other loses."""

from typing import Any

import torch
from torch import Tensor

from diffsurrogate.envs.torch_env import TorchEnv

State = dict[str, Tensor]


class Tag(TorchEnv):
    """Both see both places; the chaser pays the squared gap, the runner earns it."""

    def __init__(self, num_envs: int = 61, **kwargs: Any) -> None:
        names = ["chaser", "runner"]
        super().__init__(
            num_envs=num_envs, agents=names, obs_dim=2, act_dim=1, max_steps=32, **kwargs
        )

    def spawn(self, count: int, generator: torch.Generator) -> State:
        return {"pos": torch.rand(count, 2, 1, generator=generator) * 2 - 1}

    def observe(self, state: State) -> Tensor:
        return torch.cat([state["pos"], state["pos"].flip(1)], dim=-1)

    def advance(self, state: State, action: Tensor) -> State:
        return {"pos": state["pos"] + 0.1 * action}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        gap = (next_state["pos"][:, 0] - next_state["pos"][:, 1]).square().sum(-1)
        return torch.stack([-gap, gap], dim=-1)
