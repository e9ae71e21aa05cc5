"""Dispersion as in the SHAC++ paper: agents start on a small circle and spread over the food."""

import math
from typing import Any

import torch
from torch import Tensor
from vmas.scenarios import dispersion
from vmas.simulator.core import World


class Dispersion(dispersion.Scenario):  # type: ignore[misc]
    """VMAS's Dispersion, except for where agents start.

    In VMAS all start at the origin with equal observations, so that agents sharing a policy could
    never part. Here they stand evenly on a circle of `start_radius`. Observations are
    `(4 + 3 * n_food)`: own position and velocity, and per food its relative position and whether
    it is eaten. Food within .085 pays 1 in all, shared by the agents on it, once.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        """Build the world; takes VMAS's arguments and `start_radius` (.05)."""
        self.start_radius = kwargs.pop("start_radius", 0.05)
        return super().make_world(batch_dim, device, **kwargs)

    def reset_world_at(self, env_index: int | None = None) -> None:
        """Scatter the food uniformly and put the agents on the circle."""
        super().reset_world_at(env_index)
        agents = self.world.agents
        for index, agent in enumerate(agents):
            angle = 2 * math.pi * index / len(agents)
            start = [self.start_radius * math.cos(angle), self.start_radius * math.sin(angle)]
            agent.set_pos(torch.tensor(start, device=self.world.device), batch_index=env_index)

    def max_return(self) -> Tensor:
        """Return (env,): 1 per food item, or per item and agent with VMAS's `share_reward`."""
        most = len(self.world.landmarks) * (len(self.world.agents) if self.share_reward else 1)
        return torch.full((self.world.batch_dim,), float(most), device=self.world.device)
