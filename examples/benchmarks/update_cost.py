"""What an update of SHAC++ costs beside one of PPO, and beside one of another version of this.

    python examples/benchmarks/update_cost.py
    python examples/benchmarks/update_cost.py --cases dispersion-20 --against OTHER/.venv/bin/python

Recommended settings, windows of 32 steps. Each trainer has a process of its own, with one thread;
they take turns, an update each, so that a busy machine slows all; times are CPU-seconds, ratios are
medians over rounds. Peak memory is of the whole process, torch included.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

Network = Literal["mlp", "shared", "transformer"]
CASES: dict[str, tuple[str, int | None, Network, int]] = {
    # env, agents, network, envs
    "dispersion-3": ("paper/dispersion", 3, "mlp", 256),
    "dispersion-3-transformer": ("paper/dispersion", 3, "transformer", 256),
    "transport-3": ("paper/transport", 3, "mlp", 256),
    "halfcheetah": ("mujoco/HalfCheetah-v5", None, "mlp", 64),
    "dispersion-10": ("paper/dispersion", 10, "shared", 64),
    "dispersion-20": ("paper/dispersion", 20, "shared", 64),
    "dispersion-50": ("paper/dispersion", 50, "shared", 64),
    "transport-20": ("paper/transport", 20, "shared", 64),
    "transport-50": ("paper/transport", 50, "shared", 64),
}


def serve(case: str, method: Literal["shac++", "ppo"]) -> None:
    """Make an update for every line of standard input."""
    from diffsurrogate import recommended

    env_id, agents, network, num_envs = CASES[case]
    recipe = recommended(method, env_id, agents, network)
    config = replace(recipe.config, horizon=32)
    recipe = replace(recipe, config=config, run=replace(recipe.run, num_envs=num_envs))
    agent, env = recipe.make(seed=0)
    simulator = getattr(env, "env", env)
    step, spent = simulator.step, [0.0]

    def timed(*args: Any) -> Any:
        start = time.process_time()
        found = step(*args)
        spent[0] += time.process_time() - start
        return found

    simulator.step = timed  # type: ignore[method-assign]
    for _ in sys.stdin:
        spent[0], start = 0.0, time.process_time()
        agent.learn(agent.env_steps + agent.steps_per_iteration)
        took = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"update": took, "simulator": spent[0], "peak_mb": peak}), flush=True)


def compare(case: str, against: str | None, warmup: int, rounds: int) -> dict[str, Any]:
    """Return the medians of a case over rounds, and of ratios within them."""
    from in_turns import Trainer  # not beside what is served

    trainers = {name: Trainer(sys.executable, __file__, case, name) for name in ("shac++", "ppo")}
    if against is not None:
        trainers["before"] = Trainer(against, __file__, case, "shac++")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    for _ in range(warmup + rounds):
        for name, trainer in trainers.items():
            found[name].append(trainer.turn())
    for trainer in trainers.values():
        trainer.close()
    row: dict[str, Any] = {"case": case}
    for name, updates in found.items():
        for key in ("update", "simulator", "peak_mb"):
            row[f"{name} {key}"] = median(update[key] for update in updates[warmup:])
    for name in [name for name in trainers if name != "shac++"]:
        pairs = zip(found["shac++"][warmup:], found[name][warmup:], strict=True)
        row[f"over {name}"] = median(mine["update"] / other["update"] for mine, other in pairs)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    heads = (
        *("case", "SHAC++, ms", "of it the simulator", "PPO, ms", "ratio", "peak, MB"),
        *("before, ms, MB", "faster"),
    )
    text = f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
    for row in rows:
        mine, ppo = 1000 * row["shac++ update"], 1000 * row["ppo update"]
        share = row["shac++ simulator"] / row["shac++ update"]
        text += f"| {row['case']} | {mine:.0f} | {share:.0%} | {ppo:.0f} | {row['over ppo']:.1f}"
        text += f" | {row['shac++ peak_mb']:.0f} | "
        if "over before" in row:
            text += f"{1000 * row['before update']:.0f}, {row['before peak_mb']:.0f}"
            text += f" | {1 / row['over before']:.1f} ×"
        else:
            text += "| "
        text += " |\n"
    return text


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--against", help="Python interpreter of another installed version")
    parser.add_argument(
        "--warmup", type=int, default=2, help="updates before the first that counts"
    )
    parser.add_argument("--rounds", type=int, default=5, help="updates that count, of each trainer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    rows = []
    for case in options.cases:
        rows.append(compare(case, options.against, options.warmup, options.rounds))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
