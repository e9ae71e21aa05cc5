"""Sampling as in the SHAC++ paper: collect a density from the cells of a grid, each cell once."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from vmas.scenarios import sampling
from vmas.simulator.core import Agent, World

from diffsurrogate.wrappers.vmas.lidar import use_sphere_lidars

NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1), (-1, -1), (1, -1), (-1, 1), (1, 1))
"""Where an agent sees the density, in cells from where it is."""


class Sampling(sampling.Scenario):  # type: ignore[misc]
    """VMAS's Sampling, faster and with a known maximum.

    The density is a sum of 3 Gaussians of variance .05, divided by its largest value on the grid.
    The agent that is first to enter a cell (.05 wide) finds the density where it stands, later
    ones nothing, and every agent is paid what all found together. Observations are 24 numbers: own
    position and velocity, 12 lidar rays that see agents up to .2 away, and the density .05 away in
    8 directions, 0 in visited cells. No state ends an episode. The reward is differentiable
    within a cell.

    Values are VMAS's, which evaluates Gaussians one point at a time: 1600 times per reset.
    """

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        """Build the world; takes VMAS's arguments."""
        world = super().make_world(batch_dim, device, **kwargs)
        use_sphere_lidars(world.agents)
        roots = [torch.linalg.cholesky(matrix[0]) for matrix in self.cov_matrices]
        self.deviations = torch.stack([root[0, 0] for root in roots])  # to the last bit VMAS's
        cells = [[self.grid_spacing * x, self.grid_spacing * y] for x, y in NEIGHBOURS]
        self.neighbours = torch.tensor(cells, device=device)
        self.bound = torch.tensor([self.xdim, self.ydim], dtype=torch.float32, device=device)
        self.reach = torch.tensor([world.x_semidim, world.y_semidim], device=device)
        return world

    def nomrlize_pdf(self, env_index: int | None = None) -> None:
        """Note the largest density on the grid's corners; the misspelt name is VMAS's."""
        x, y = (
            torch.arange(-limit, limit, self.grid_spacing, device=self.world.device)
            for limit in (self.xdim, self.ydim)
        )
        x = x.clamp(-self.world.x_semidim, self.world.x_semidim)
        y = y.clamp(-self.world.y_semidim, self.world.y_semidim)
        where = self.density_on_grid(x, y).flatten(1).argmax(dim=1)
        peak = torch.stack([x[where // len(y)], y[where % len(y)]], dim=-1)
        largest = self._density(peak[:, None])[:, 0]  # the grid's is not VMAS's to the last bit
        if env_index is None:
            self.max_pdf = largest
        else:
            self.max_pdf[env_index] = largest[env_index]

    def max_return(self) -> Tensor:
        """Return (env,): the density summed over the centres of all cells, per agent.

        Just one agent's share without `shared_rew`. A cell pays for the place where it was
        entered, so a team that visits all cells that matter can get slightly more. The paper's
        code divides every env by the largest density over all envs instead of its own, so it
        says less than half of this.
        """
        x, y = (
            self._centres(cells, semidim)
            for cells, semidim in (
                (self.n_x_cells, self.world.x_semidim),
                (self.n_y_cells, self.world.y_semidim),
            )
        )
        total = self.density_on_grid(x, y).sum(dim=(1, 2))
        if self.norm:
            total = total / self.max_pdf
        return total * (len(self.world.agents) if self.shared_rew else 1)

    def reward(self, agent: Agent) -> Tensor:
        """Return (env,): what the agents found in cells they are the first to enter."""
        if agent is self.world.agents[0]:
            self._visit()
        reward: Tensor = self.sampling_rew if self.shared_rew else agent.sample
        return reward

    def observation(self, agent: Agent) -> Tensor:
        """Return (env, 24): position, velocity, lidar, and the density around the agent."""
        value, _ = self._look(agent.state.pos[:, None] + self.neighbours)
        rays = [lidar.measure() for lidar in agent.sensors]
        return torch.cat(
            [agent.state.pos, agent.state.vel, *rays, value / self.max_pdf[:, None]], dim=-1
        )

    def _visit(self) -> None:
        """Pay every agent for its cell and mark the cell; of two in one cell the first is paid."""
        value, cell = self._look(torch.stack([a.state.pos for a in self.world.agents], dim=1))
        if self.norm:
            value = value / self.max_pdf[:, None]
        late = (cell[:, :, None] == cell[:, None, :]).tril(diagonal=-1).any(dim=-1)
        value = torch.where(late, 0.0, value)
        self.sampled.view(len(cell), -1).scatter_(1, cell, True)
        self.sampling_rew = value.sum(dim=-1)
        for agent, sample in zip(self.world.agents, value.unbind(dim=1), strict=True):
            agent.sample = sample

    def _look(
        self, pos: Float[Tensor, "env point 2"]
    ) -> tuple[Float[Tensor, "env point"], Int64[Tensor, "env point"]]:
        """Return the density, 0 if visited or out of bounds, and each point's cell by number."""
        outside = (pos.abs() > self.bound).any(dim=-1)
        pos = pos.clamp(-self.reach, self.reach)
        x, y = (pos.detach() / self.grid_spacing).unbind(dim=-1)
        column, row = (x + self.n_x_cells / 2).long(), (y + self.n_y_cells / 2).long()
        cell = column * self.n_y_cells + row
        visited = self.sampled.flatten(1).gather(1, cell)
        return torch.where(visited | outside, 0.0, self._density(pos)), cell

    def _density(self, pos: Float[Tensor, "env point 2"]) -> Float[Tensor, "env point"]:
        """Return the sum of the Gaussians, with VMAS's operations in VMAS's order."""
        centre = torch.stack(self.locs, dim=1)[:, None]  # (env, 1, gaussian, 2)
        distance = ((pos[:, :, None] - centre) / self.deviations[:, None]).square().sum(dim=-1)
        log = -0.5 * (2 * math.log(2 * math.pi) + distance) - 2 * self.deviations.log()
        return log.exp().sum(dim=-1)

    def density_on_grid(
        self, x: Float[Tensor, " x"], y: Float[Tensor, " y"]
    ) -> Float[Tensor, "env x y"]:
        """Return the density at all pairs of coordinates; each Gaussian is a product of two."""
        centre = torch.stack(self.locs, dim=1)  # (env, gaussian, 2)
        variance = self.deviations[:, None] ** 2
        along_x = torch.exp(-0.5 * (x - centre[:, :, :1]) ** 2 / variance) / (
            2 * math.pi * variance
        )
        along_y = torch.exp(-0.5 * (y - centre[:, :, 1:]) ** 2 / variance)
        return along_x.transpose(1, 2) @ along_y

    def _centres(self, cells: int, semidim: float) -> Float[Tensor, " cell"]:
        """Return the middles of the cells along one axis, of those that an agent can enter."""
        edges = torch.tensor([-semidim, semidim]) / self.grid_spacing + cells / 2
        first, last = edges.long().tolist()
        middle = torch.arange(first, last + 1, device=self.world.device) + 0.5 - cells / 2
        return (middle * self.grid_spacing).clamp(-semidim, semidim)
