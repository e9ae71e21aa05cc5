"""Discovery as in the SHAC++ paper: find seven hidden targets and cover each with two agents."""

from typing import Any

import torch
from torch import Tensor
from vmas.scenarios import discovery
from vmas.simulator.core import World

from diffsurrogate.wrappers.scenarios.lidar import use_sphere_lidars


class Discovery(discovery.Scenario):  # type: ignore[misc]
    """VMAS's Discovery with targets that stay away once covered, and a known maximum.

    A target is covered when `agents_per_target` agents (2, or 1 if there is only one) are within
    .25 of it. In that step it pays 1 to every agent within .25, then it goes. Observations are 19
    numbers: own position and velocity, and 15 lidar rays that see targets up to .35 away. An
    episode ends when all 7 targets are covered. The reward is a count, without a gradient.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        """Build the world; takes VMAS's arguments, with `targets_respawn` False by default."""
        kwargs.setdefault("agents_per_target", min(kwargs.get("n_agents", 5), 2))
        kwargs.setdefault("targets_respawn", False)
        world = super().make_world(batch_dim, device, **kwargs)
        use_sphere_lidars(world.agents)
        return world

    def max_return(self) -> Tensor:
        """Return (env,): 1 per agent and target (times `covering_rew_coeff`), penalties aside.

        That takes every agent in range when a target is covered. The paper's code says 7 for any
        number of agents, which two can exceed. VMAS's `shared_reward` pays every agent half of
        what all earn together, so the maximum is `n_agents / 2` times as large. There is none
        (infinity) if targets respawn.
        """
        agents = len(self.world.agents)
        largest = self.covering_rew_coeff * agents * self.n_targets
        if self.shared_reward:
            largest *= agents / 2
        if self.targets_respawn:
            largest = float("inf")
        return torch.full((self.world.batch_dim,), float(largest), device=self.world.device)
