"""A point that falls on a floor and bounces: where it bounces and how steeply is known."""

import torch
from torch import Tensor

from diffsurrogate.envs.torch_env import TorchEnv, TorchState

REACH = 0.8
"""Height below which the point counts as in contact."""


class Bouncer(TorchEnv):
    """From height h it falls by (1 - action) / 2, and what is below the floor is turned up.

    The next height, which is the reward too, is |h - (1 - a) / 2|: its slope is ½ in the air, -½
    where it bounced, and it has a kink at the floor.
    """

    def __init__(
        self,
        heights: list[float],
        *,
        factors: list[float] | None = None,
        infinite: tuple[int, ...] = (),
        max_steps: int | None = None,
    ) -> None:
        """Let env i start at `heights[i]`, with a gradient wrong by `factors[i]`, or infinite."""
        super().__init__(
            num_envs=len(heights),
            agents=["point"],
            obs_dim=1,
            act_dim=1,
            differentiable=True,
            max_steps=max_steps,
        )
        self.heights = torch.tensor(heights)[:, None, None]
        self.factors = torch.tensor(factors or [1.0] * len(heights))[:, None, None]
        self.infinite = torch.zeros(len(heights), 1, 1, dtype=torch.bool)
        self.infinite[list(infinite)] = True

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"height": self.heights.clone()}

    def observe(self, state: TorchState) -> Tensor:
        return state["height"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        height = (state["height"] - (1 - action) / 2).abs()
        slope_at_0 = torch.where(self.infinite, 0 * height, 1.0).sqrt().where(self.infinite, 0.0)
        height = height.detach() + self.factors * (height - height.detach())
        return {"height": height + slope_at_0}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return next_state["height"].squeeze(-1)

    def contacts(self) -> Tensor:
        return self._state["height"].detach()[:, 0, 0] < REACH
