"""Scripted policies for the paper's tasks: what a hand-written program earns, as a yardstick.

Each takes an env and returns a function of the team's observations (env, agent, obs_dim). Those
marked "full knowledge" look into the simulator as well, which no learned policy can.
"""

import itertools
import math
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from diffsurrogate.wrappers.vmas.adapter import VmasEnv

Policy = Callable[[Tensor], Tensor]


def go_to(obs: Tensor, target: Tensor) -> Tensor:
    """Return the action that brings each agent to its target (env, agent, 2) and stops there."""
    pos, vel = obs[..., :2], obs[..., 2:4]
    return (36 * (target - pos) - 6 * vel).clamp(-1, 1)


def unit(angle: Tensor) -> Tensor:
    """Return (..., 2): the vector of length 1 at this angle."""
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


# --- Dispersion ------------------------------------------------------------------------------


def assigned_food(env: VmasEnv) -> Policy:
    """Dispersion: food is shared out so that the team's whole way is shortest."""

    def act(obs: Tensor) -> Tensor:
        food = obs[..., 4:].unflatten(-1, (-1, 3))  # (env, agent, food, [relative x, y, eaten])
        cost = food[..., :2].norm(dim=-1) + 100 * food[..., 2]
        chosen = torch.tensor([linear_sum_assignment(table)[1].tolist() for table in cost.numpy()])
        way = food.gather(2, chosen[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0, :2]
        return go_to(obs, obs[..., :2] + way)

    return act


# --- Transport -------------------------------------------------------------------------------

HALF, RADIUS = 0.075, 0.03  # of the package's side; of an agent
DONE = 0.08  # an axis needs no more pushing


def slots(need: Tensor, agents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the agents push: direction and place on the package (env, agent, 2), used.

    Along both axes at once: the first agent pushes the corner behind, the others the two faces
    behind in turn. Once one axis is done, up to three push the one face behind.
    """
    sign = need.sign()
    both = (need.abs() > DONE).all(dim=1)
    last = torch.nn.functional.one_hot(need.abs().argmax(dim=1), 2)  # the axis left to push
    directions, places, used = [], [], []
    for agent in range(agents):
        axis = (agent + 1) % 2
        along = torch.nn.functional.one_hot(torch.tensor(axis), 2)
        offset = 0.06 * ((agent - 1) // 2)
        face_direction = sign * along
        face_place = -HALF * face_direction + offset * sign * (1 - along)
        if agent == 0:
            face_direction, face_place = sign / math.sqrt(2), -HALF * sign
        single = sign * last
        single_place = -HALF * single + 0.06 * (0, 1, -1, 2, -2)[agent % 5] * (1 - last)
        directions.append(torch.where(both[:, None], face_direction, single))
        places.append(torch.where(both[:, None], face_place, single_place))
        used.append(both | (agent < 3))
    return torch.stack(directions, 1), torch.stack(places, 1), torch.stack(used, 1)


def pushers(env: VmasEnv) -> Policy:
    """Transport: go around the package and push it from behind, along both axes at once."""

    def act(obs: Tensor) -> Tensor:
        need, relative, vel = -obs[:, 0, 4:6], -obs[..., 6:8], obs[..., 2:4]
        direction, place, used = slots(need, obs.shape[1])
        sideways = torch.stack([-direction[..., 1], direction[..., 0]], dim=-1)
        wanted = place - RADIUS * direction
        error = relative - wanted
        ahead, aside = ((error * axis).sum(-1, keepdim=True) for axis in (direction, sideways))
        drift = (vel * sideways).sum(-1, keepdim=True)
        push = 2 * direction - (130 * aside + 14 * drift) * sideways
        behind = (aside.abs() < 0.03) & (ahead.abs() < 0.06)
        angle = torch.atan2(relative[..., 1], relative[..., 0])
        turn = torch.atan2(wanted[..., 1], wanted[..., 0]) - angle
        turn = torch.atan2(turn.sin(), turn.cos())
        around = 0.22 * unit(angle + turn.clamp(-0.5, 0.5))
        start = wanted - 0.02 * direction
        approach = torch.where(turn.abs()[..., None] > 0.4, around, start)
        approach = torch.where(used[..., None], approach, 0.35 * unit(angle))
        walk = go_to(obs, obs[..., :2] - relative + approach)
        return torch.where(behind & used[..., None], push, walk).clamp(-1, 1)

    return act


# --- Discovery -------------------------------------------------------------------------------

ENTRY = 0.29  # where a team gathers around a target; it is covered at .25
GAP = 0.115  # between neighbours
BEARINGS = torch.arange(24) * 2 * math.pi / 24


def arc(agents: int) -> Tensor:
    """Return (agent,) angles at which a team stands side by side on the circle of entry."""
    return (torch.arange(agents) - (agents - 1) / 2) * GAP / ENTRY


def best_bearing(obs: Tensor, target: Tensor, others: Tensor) -> Tensor:
    """Return (env,): from which side to enter, near, inside the walls and away from others."""
    centre, angles = obs[..., :2].mean(dim=1), BEARINGS[:, None] + arc(obs.shape[1])
    places = target[:, None, None] + ENTRY * unit(angles)  # (env, bearing, agent, 2)
    cost = (places.mean(dim=2) - centre[:, None]).norm(dim=-1)
    cost = cost + 10 * (places.abs() - 0.97).clamp(min=0).sum(dim=(2, 3))
    near = (places[..., None, :] - others[:, None, None]).norm(dim=-1)
    return BEARINGS[(cost + (0.3 - near).clamp(min=0).sum(dim=(2, 3))).argmin(dim=1)]


def surround(obs: Tensor, target: Tensor, others: Tensor) -> Tensor:
    """Gather side by side around `target` (env, 2), then enter all at once.

    Args:
        obs: (env, agent, obs_dim).
        target: (env, 2).
        others: (env, other, 2): targets better not covered on the way.
    """
    bearing = best_bearing(obs, target, others)[:, None]
    pos = obs[..., :2] - target[:, None]
    distance = pos.norm(dim=-1)
    seen = torch.atan2(pos[..., 1], pos[..., 0]) - bearing
    order = torch.atan2(seen.sin(), seen.cos()).argsort(dim=1).argsort(dim=1)  # nobody crosses
    place = target[:, None] + ENTRY * unit(bearing + arc(obs.shape[1])[order])
    spread = distance.amax(dim=1) - distance.amin(dim=1)
    stuck = obs[..., 2:4].norm(dim=-1).amax(dim=1) < 0.04
    enter = ((spread < 0.012) | stuck) & (distance.amax(dim=1) < ENTRY + 0.1)
    inwards = -pos / distance[..., None]
    return torch.where(enter[:, None, None], inwards, go_to(obs, place))


def known_targets(env: VmasEnv) -> Policy:
    """Discovery, full knowledge: the nearest target that is left, all agents at once."""

    def act(obs: Tensor) -> Tensor:
        targets = torch.stack([target.state.pos for target in env.scenario._targets], dim=1)
        index = (targets - obs[..., :2].mean(dim=1, keepdim=True)).norm(dim=-1).argmin(dim=1)
        rows = torch.arange(len(index))
        target = targets[rows, index]
        if obs.shape[1] == 1:
            return go_to(obs, target[:, None])
        others = targets.clone()
        others[rows, index] = math.inf
        return surround(obs, target, others)

    return act


def lanes(centre: Tensor) -> Tensor:
    """Return (env, 2): which way to go along four lanes, up, and back down at the left wall."""
    x, y = centre.unbind(dim=-1)
    lane = ((y + 1) / 0.5).floor().clamp(0, 3)
    to_lane = (-0.75 + 0.5 * lane - y).clamp(-0.1, 0.1)
    right = torch.stack([torch.full_like(x, 0.1), to_lane], dim=-1)
    left = torch.stack([torch.full_like(x, -0.1), to_lane], dim=-1)
    up = torch.stack([torch.zeros_like(x), torch.full_like(y, 0.1)], dim=-1)
    down = torch.stack([(-0.9 - x).clamp(-0.1, 0.1), torch.full_like(y, -0.1)], dim=-1)
    even = (lane % 2 == 0)[:, None]
    at_end = torch.where(even, (x > 0.75)[:, None], ((x < -0.45) & (lane < 3))[:, None])
    way = torch.where(at_end, up, torch.where(even, right, left))
    return torch.where(((x < -0.7) & (y > -0.7))[:, None], down, way)


def nearest_seen(obs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target (env, 2) nearest to the team that some ray hits, and whether one does."""
    reading, rays = obs[..., 4:19], unit(torch.arange(15) * 2 * math.pi / 15)
    hit = (reading < 0.349).flatten(1)
    ends = (obs[..., None, :2] + reading[..., None] * rays).flatten(1, 2)  # (env, ray, 2)
    inside = (obs[..., None, :2] + (reading[..., None] + 0.05) * rays).flatten(1, 2)
    away = (ends - obs[..., :2].mean(dim=1, keepdim=True)).norm(dim=-1)
    target = inside[torch.arange(len(obs)), away.masked_fill(~hit, math.inf).argmin(dim=1)]
    for _ in range(10):  # fit a circle of radius .05 to all ends on the same target
        outwards = ends - target[:, None]
        distance = outwards.norm(dim=-1, keepdim=True)
        weight = hit[..., None] & (distance < 0.12)
        fitted = (ends - 0.05 * outwards / distance) * weight
        target = fitted.sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return target, hit.any(dim=1)


def sweepers(env: VmasEnv) -> Policy:
    """Discovery, from observations and without memory: sweep together; go to what a ray sees."""
    agents = env.num_agents
    circle = unit(torch.arange(agents) * 2 * math.pi / agents)
    formation = circle * (GAP / 2 / math.sin(math.pi / agents) if agents > 1 else 0.0)

    def act(obs: Tensor) -> Tensor:
        centre = obs[..., :2].mean(dim=1)
        sweep = go_to(obs, centre[:, None] + 0.8 * lanes(centre)[:, None] + formation)
        target, seen = nearest_seen(obs)
        nothing = torch.full((len(obs), 1, 2), math.inf)
        approach = go_to(obs, target[:, None])
        if agents > 1:
            approach = surround(obs, target, nothing)
        return torch.where(seen[:, None, None], approach, sweep)

    return act


# --- Sampling --------------------------------------------------------------------------------


DIRECTIONS = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=2)))
HOLD, LEGS = 5, 2
PLANS = torch.stack(
    [
        torch.stack(legs).repeat_interleave(HOLD, 0)
        for legs in itertools.product(DIRECTIONS, repeat=LEGS)
    ]
)
"""(plan, step, 2): push in one direction, then in another."""


def planned_ways() -> tuple[Tensor, Tensor]:
    """Return how far each plan leads from rest (plan, step, 2), and how far speed carries (step,).

    One step of VMAS: a quarter of the speed is lost, then it gains .1 of the action and moves on.
    """
    speed, way = torch.zeros(len(PLANS), 2), torch.zeros(len(PLANS), 2)
    carried, ways, carries = 0.0, [], []
    for step, action in enumerate(PLANS.unbind(dim=1), start=1):
        speed = 0.75 * speed + 0.1 * action
        way = way + 0.1 * speed
        carried += 0.1 * 0.75**step
        ways.append(way)
        carries.append(carried)
    return torch.stack(ways, dim=1), torch.tensor(carries)


def known_density(env: VmasEnv) -> Policy:
    """Sampling, full knowledge: the best of 81 plans of ten steps, made again every step.

    One agent after the other plans, and leaves alone what those before it will visit. Where no
    plan finds much, it goes to the cell with most density, less .03 for every step on the way.
    """
    axis = (torch.arange(40) + 0.5) * 0.05 - 1
    cells = torch.cartesian_prod(axis, axis)
    ways, carries = planned_ways()
    discount = 0.8 ** torch.arange(HOLD * LEGS)

    def act(obs: Tensor) -> Tensor:
        density = env.scenario.density_on_grid(axis, axis).flatten(1)
        left = density / env.scenario.max_pdf[:, None]
        left = left.masked_fill(env.scenario.sampled.flatten(1), 0.0)
        actions = []
        for own in obs.unbind(dim=1):
            pos, vel = own[:, None, :2], own[:, None, 2:4]
            path = pos[:, None] + carries[:, None] * vel[:, None] + ways  # (env, plan, step, 2)
            column, row = ((path.clamp(-0.975, 0.975) + 1) / 0.05).long().unbind(dim=-1)
            cell = column * 40 + row
            again = (cell[..., :, None] == cell[..., None, :]).tril(diagonal=-1).any(dim=-1)
            found = left.gather(1, cell.flatten(1)).view(cell.shape).masked_fill(again, 0.0)
            worth, best = (found * discount).sum(dim=-1).max(dim=1)
            steps = (cells - pos).abs().amax(dim=-1) / 0.04
            goal = cells[(left - 0.03 * steps).masked_fill(left == 0, -math.inf).argmax(dim=1)]
            walk = (100 * (goal - own[:, :2]) - 2 * own[:, 2:4]).clamp(-1, 1)
            actions.append(torch.where((worth < 0.3)[:, None], walk, PLANS[best, 0]))
            left = left.scatter(1, cell[torch.arange(len(own)), best], 0.0)
        return torch.stack(actions, dim=1)

    return act


def steepest(env: VmasEnv) -> Policy:
    """Sampling, from observations and without memory: to the best neighbour, or straight on."""
    deltas = torch.tensor(
        [[1, 0], [-1, 0], [0, 1], [0, -1], [-1, -1], [1, -1], [-1, 1], [1, 1]], dtype=torch.float32
    )

    def act(obs: Tensor) -> Tensor:
        pos, vel, value = obs[..., :2], obs[..., 2:4], obs[..., -8:]
        ways = deltas / deltas.norm(dim=-1, keepdim=True)
        onwards = (vel @ ways.T) / 0.4
        free = ((pos[..., None, :] + 0.05 * deltas).abs() < 0.97).all(dim=-1)
        worth = value + 0.05 * onwards - 10.0 * ~free
        return (deltas[worth.argmax(dim=-1)] * 1.5 - 1.0 * vel).clamp(-1, 1)

    return act
