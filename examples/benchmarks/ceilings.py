"""What is attainable: scripted policies on the paper's tasks, evaluated as trained ones are.

The normalised return divides by a maximum that ignores time, walls and inertia; a trained policy
is better compared with what a program written for the task earns in the same 512 steps. The
policies are in `scripted.py`; two of them look into the simulator.

    python examples/benchmarks/ceilings.py --out examples/results/ceilings
"""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from scripted import (
    Policy,
    assigned_food,
    known_density,
    known_targets,
    pushers,
    steepest,
    sweepers,
)

from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.training.run_folder import write_rows
from diffsurrogate.wrappers.vmas import paper_tasks as paper
from diffsurrogate.wrappers.vmas.adapter import VmasEnv

POLICIES: dict[str, dict[str, Callable[[VmasEnv], Policy]]] = {
    "dispersion": {"assignment": assigned_food},
    "transport": {"pushing from behind": pushers},
    "discovery": {"targets known": known_targets, "sweeping": sweepers},
    "sampling": {"density known, planning": known_density, "best neighbour": steepest},
}
FULL_KNOWLEDGE = {"targets known", "density known, planning"}


@dataclass
class Options:
    """What to evaluate, and on how much."""

    tasks: tuple[str, ...] = tuple(POLICIES)
    agents: tuple[int, ...] = (1, 3, 5)
    num_envs: int = 512
    steps: int = 512
    seed: int = 2_000_003
    """The default is that of the evaluation at the end of a training run."""
    out: Path | None = None
    """Also write OUT.json and OUT.md."""


def measure(task: str, name: str, agents: int, options: Options) -> dict[str, object]:
    """Return one row: what this policy earns with so many agents, and its CPU-seconds."""
    env = paper.make(
        task, num_envs=options.num_envs, n_agents=agents, seed=0, max_steps=options.steps
    )
    began = time.process_time()
    result = evaluate(POLICIES[task][name](env), env, seed=options.seed)
    return {
        "task": task,
        "agents": agents,
        "policy": name,
        "full_knowledge": name in FULL_KNOWLEDGE,
        **result.summary(),
        "cpu_seconds": time.process_time() - began,
    }


def line(row: dict[str, object]) -> str:
    """Return a row as Markdown."""
    sees = "full knowledge" if row["full_knowledge"] else "observations"
    return (
        f"| {row['task']} | {row['agents']} | {row['policy']} | {sees} | "
        f"{row['normalised_return']:.3f} | {row['terminated_share']:.2f} | "
        f"{row['episode_length']:.0f} | {row['cpu_seconds']:.1f} |"
    )


def main() -> None:
    """Print one row per task, policy and number of agents."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    command = shlex.join(["python", "examples/benchmarks/ceilings.py", *sys.argv[1:]])
    table = [
        "| task | agents | policy | sees | normalised return | ended | steps | CPU-s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(table))
    rows = []
    for task in options.tasks:
        for name in POLICIES[task]:
            for agents in options.agents:
                rows.append(measure(task, name, agents, options))
                table.append(line(rows[-1]))
                print(table[-1], flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        data = {"command": command, "num_envs": options.num_envs, "rows": rows}
        write_rows(options.out.with_suffix(".json"), data)
        title = (
            "# What scripted policies earn\n\n"
            f"Return over the largest return, {options.num_envs} envs, {options.steps} steps, seed "
            f"{options.seed}; CPU-seconds of one thread, simulator included. All agents of a team "
            "share what they see. Slightly more than 1 is possible: Transport pays for "
            "distance between centres and Sampling for where a cell is entered.\n\n"
        )
        text = title + "\n".join(table) + f"\n\nMade by `{command}`.\n"
        options.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
