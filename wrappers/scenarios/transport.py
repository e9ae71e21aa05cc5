"""Transport as in the SHAC++ paper: push a package of mass 10 onto the goal."""

from typing import Any

import torch
from torch import Tensor
from vmas.scenarios import transport
from vmas.simulator.core import World


class Transport(transport.Scenario):  # type: ignore[misc]
    """VMAS's Transport with a lighter package and a known maximum.

    Observations are 11 numbers: own position and velocity, package relative to the goal and to the
    agent, package velocity, and whether it is on the goal. Every agent is paid 100 times the
    distance by which the package came nearer to the goal, and nothing on the goal. The reward is
    differentiable while an agent touches the package and is a difference of two steps, so it keeps
    the last step's graph: call `detach()` between windows.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        """Build the world; takes VMAS's arguments, with `package_mass` 10 by default."""
        kwargs.setdefault("package_mass", 10.0)
        self.initial_gap = torch.zeros(batch_dim, device=device)
        return super().make_world(batch_dim, device, **kwargs)

    def reset_world_at(self, env_index: int | None = None) -> None:
        """Place agents, packages and goal at random and note how far the packages have to go."""
        super().reset_world_at(env_index)
        gaps = [self.world.get_distance(package, package.goal) for package in self.packages]
        gap = torch.stack(gaps).sum(dim=0).detach()
        if env_index is None:
            self.initial_gap = gap
        else:
            self.initial_gap[env_index] = gap[env_index]

    def max_return(self) -> Tensor:
        """Return (env,): 100 per agent and unit of gap between package and goal at reset."""
        return self.shaping_factor * len(self.world.agents) * self.initial_gap
