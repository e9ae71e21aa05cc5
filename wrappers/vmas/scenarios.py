"""Dispersion, Transport and Discovery as the SHAC++ paper plays them."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from vmas.scenarios import discovery, dispersion, transport
from vmas.simulator.core import Agent, World

from diffsurrogate.wrappers.vmas.lidar import use_sphere_lidars


class Dispersion(dispersion.Scenario):  # type: ignore[misc]
    """VMAS's Dispersion, except for where agents start.

    In VMAS all start at the origin with equal observations, so that agents sharing a policy could
    never part. Here they stand evenly on a circle of `start_radius`. Observations are
    `(4 + 3 * n_food)`: own position and velocity, and per food its relative position and whether
    it is eaten. Food within .085 pays 1 in all, shared by the agents on it, once.

    Rewards and observations are VMAS's, but for all pairs of agent and food at once: VMAS takes a
    handful of torch calls per pair, most of a step from ten agents on.
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

    @functools.wraps(dispersion.Scenario.reward)  # what holds of its gradient holds of this one's
    def reward(self, agent: Agent) -> Tensor:
        """Return (env,); the first agent's call computes all agents', the last one's eats."""
        agents, food = self.world.agents, self.world.landmarks
        if agent is agents[0]:
            self.earned = self._earned()
        reward = self.earned[:, agents.index(agent)]
        if self.penalise_by_time:
            reward = torch.where(reward == 0, -0.01, reward)
        if agent is agents[-1]:
            for item in food:
                item.eaten |= item.just_eaten
                item.just_eaten[:] = False
                item.is_rendering[item.eaten] = False
        return reward

    def _earned(self) -> Tensor:
        """Return (env, agent), and note which food is being eaten."""
        agents, food = self.world.agents, self.world.landmarks
        place, position = (torch.stack([x.state.pos for x in group], 1) for group in (food, agents))
        reach = position.new_tensor(
            [[a.shape.radius + f.shape.radius for f in food] for a in agents]
        )
        apart = torch.linalg.vector_norm(position.unsqueeze(2) - place.unsqueeze(1), dim=-1)
        on_food = apart < reach  # (env, agent, food)
        diners = on_food.sum(1)
        for index, item in enumerate(food):
            item.just_eaten |= diners[:, index] > 0
        left = ~torch.stack([item.eaten for item in food], 1) & (diners > 0)
        if self.share_reward:
            return left.sum(1, keepdim=True).expand(-1, len(agents)).to(position.dtype)
        return (on_food & left.unsqueeze(1)).div(diners.clamp(min=1).unsqueeze(1)).sum(-1)

    def observation(self, agent: Agent) -> Tensor:
        """Return (env, 4 + 3 * food)."""
        food = self.world.landmarks
        offset = torch.stack([item.state.pos for item in food], 1) - agent.state.pos.unsqueeze(1)
        eaten = torch.stack([item.eaten for item in food], 1).unsqueeze(-1)
        seen = torch.cat([offset, eaten.to(offset.dtype)], dim=-1).flatten(1)
        return torch.cat([agent.state.pos, agent.state.vel, seen], dim=-1)

    def max_return(self) -> Tensor:
        """Return (env,): 1 per food item, or per item and agent with VMAS's `share_reward`."""
        most = len(self.world.landmarks) * (len(self.world.agents) if self.share_reward else 1)
        return torch.full((self.world.batch_dim,), float(most), device=self.world.device)


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
