"""The defaults of SHAC++ and SHAC beside PPO's, on three envs that nobody tuned to.

    python examples/benchmarks/defaults.py                        # all, about 10 CPU-minutes
    python examples/benchmarks/defaults.py --tasks field --seeds 0 1

A point that is fined 100 where it leaves its field; a point mass behind two round obstacles, whose
goal is felt from afar only by its bonus; and MountainCarContinuous, where acting costs until the
flag is reached. One thread; evaluations (128 episodes) are not in the CPU-seconds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from diffsurrogate import PPO, SHAC, LearnedDiffWrapper, TorchEnv, evaluate, make, recommended
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.presets.recipe import Method
from diffsurrogate.training.run_folder import write_rows, write_text

RESULTS = Path(__file__).parent.parent / "results"
CHECKS = 8
State = dict[str, Tensor]


class Point(TorchEnv):
    """A point mass in the plane, which sees its place and its velocity."""

    drag, force = 0.9, 0.03

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        """Make `num_envs` of them, of 100 steps."""
        super().__init__(
            num_envs=num_envs, agents=["point"], obs_dim=4, act_dim=2, max_steps=100, **kwargs
        )

    def observe(self, state: State) -> Tensor:
        """Return place and velocity."""
        return torch.cat([state["pos"], state["vel"]], dim=-1)


class Field(Point):
    """Paid for being near the right edge, fined 100 beyond any edge, where the episode ends."""

    def spawn(self, count: int, generator: torch.Generator) -> State:
        """Begin anywhere inside, at rest."""
        pos = torch.rand(count, 1, 2, generator=generator) * 1.6 - 0.8
        return {"pos": pos, "vel": torch.zeros(count, 1, 2)}

    def advance(self, state: State, action: Tensor) -> State:
        """Push."""
        vel = self.drag * state["vel"] + self.force * action
        return {"pos": state["pos"] + vel, "vel": vel}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Return minus the squared distance from (.8, 0), and the fine."""
        gap = next_state["pos"] - torch.tensor([0.8, 0.0])
        return -gap.square().sum(-1) - 100.0 * self._outside(next_state).float()

    def terminated(self, state: State) -> Tensor:
        """Return whether the point has left."""
        return self._outside(state).any(-1)

    def _outside(self, state: State) -> Tensor:
        return (state["pos"].abs() > 1).any(-1)


class Obstacles(Point):
    """Begins on the left, with two discs on the way to the goal on the right."""

    drag, radius, discs = 0.85, 0.3, ((0.0, 0.35), (0.0, -0.35))

    def spawn(self, count: int, generator: torch.Generator) -> State:
        """Begin at the left edge, at rest."""
        y = torch.rand(count, 1, 1, generator=generator) * 1.2 - 0.6
        x = -0.9 + 0.2 * torch.rand(count, 1, 1, generator=generator)
        return {"pos": torch.cat([x, y], -1), "vel": torch.zeros(count, 1, 2)}

    def advance(self, state: State, action: Tensor) -> State:
        """Push, and slide along discs and walls."""
        vel = self.drag * state["vel"] + self.force * action
        pos = state["pos"] + vel
        for disc in torch.tensor(self.discs):
            away = pos - disc
            distance = away.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            normal, inside = away / distance, distance < self.radius
            pos = torch.where(inside, disc + self.radius * normal, pos)
            into = (vel * normal).sum(-1, keepdim=True).clamp(max=0)
            vel = torch.where(inside, vel - into * normal, vel)
        return {"pos": pos.clamp(-1, 1), "vel": vel}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Return a bonus within .2 of the goal, a slope close to it, and a small cost of acting."""
        gap = (next_state["pos"] - torch.tensor([0.8, 0.0])).norm(dim=-1)
        near = 0.05 * torch.exp(-((gap / 0.3) ** 2))
        return 0.25 * (gap < 0.2).float() + near - 0.001 * action.square().sum(-1)


@dataclass(frozen=True)
class Task:
    """An env, its copies and steps, and what trains on it."""

    env: type[Point] | str
    copies: int
    steps: int
    methods: tuple[Method, ...]


TASKS = {
    "field": Task(Field, 64, 122_880, ("shac++", "ppo")),
    "obstacles": Task(Obstacles, 64, 163_840, ("shac++", "shac", "ppo")),
    "mountain car": Task("gymnasium/MountainCarContinuous-v0", 16, 49_152, ("shac++", "ppo")),
}


def run(task: Task, method: Method, seed: int) -> dict[str, Any]:
    """Train by the default of the method; return the returns on the way and the CPU-seconds."""

    def made(copies: int, **kwargs: Any) -> MultiAgentVectorEnv:
        if isinstance(task.env, str):
            return make(task.env, num_envs=copies, seed=seed)
        return task.env(copies, seed=seed, **kwargs)

    if isinstance(task.env, str):
        agent, _ = recommended(method, task.env).make(seed=seed)
    elif method == "ppo":
        agent = PPO(made(task.copies), seed=seed)
    elif method == "shac":
        agent = SHAC(made(task.copies, differentiable=True), seed=seed)
    else:
        agent = SHAC(LearnedDiffWrapper(made(task.copies), seed=seed), seed=seed)
    returns, seconds, used = [], [], 0.0
    for check in range(CHECKS):
        start = time.process_time()
        agent.learn(task.steps * (check + 1) // CHECKS)
        used += time.process_time() - start
        returns.append(round(evaluate(agent.predict, made(128), seed=1).mean_return, 2))
        seconds.append(round(used, 1))
    return {"method": method, "seed": seed, "returns": returns, "cpu_seconds": seconds}


def main(
    tasks: tuple[str, ...] = tuple(TASKS),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    out: Path = RESULTS / "defaults",
) -> None:
    """Train, print a row per run, and write OUT.json and OUT.md."""
    torch.set_num_threads(1)
    rows = []
    head = f"| task | method | seed | return after each {CHECKS}th of the steps | CPU-s |"
    lines = [head, "|---|---|---|---|---|"]
    for name in tasks:
        for method in TASKS[name].methods:
            for seed in seeds:
                found = run(TASKS[name], method, seed)
                rows.append({"task": name} | found)
                returns = " ".join(f"{value:g}" for value in found["returns"])
                used = found["cpu_seconds"][-1]
                lines.append(f"| {name} | {method} | {seed} | {returns} | {used} |")
                print(lines[-1], flush=True)
                write_rows(out.with_suffix(".json"), rows)
    steps = ", ".join(f"{name} {TASKS[name].steps:,}" for name in tasks)
    text = "# Defaults on envs that nobody tuned to\n\n"
    text += f"Env steps: {steps}. Command: `python examples/benchmarks/defaults.py`.\n\n"
    write_text(out.with_suffix(".md"), text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
