"""SHAC++ on envs without gradients, beside Stable-Baselines3's PPO and SAC.

    python examples/benchmarks/any_env.py                            # all, several CPU-hours
    python examples/benchmarks/any_env.py --tasks pendulum cartpole  # some
    python examples/benchmarks/any_env.py --tasks hopper --methods shac++ weight-0 ppo
    python examples/benchmarks/any_env.py --report-only

Every method gets the same CPU-seconds of training on a task, one thread per run. Runs are folders
of `diffsurrogate train`; finished ones are not repeated, others resume. The report holds medians
over seeds at equal env steps and at equal CPU-seconds.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt

from diffsurrogate.cli.reproduce.logged_run import train_logged
from diffsurrogate.cli.reproduce.pool import Call, RayPool
from diffsurrogate.training.run_folder import RunFolder, write_rows, write_text

matplotlib.use("Agg")
RESULTS = Path(__file__).parent.parent / "results"
MARKS = (41_000, 82_000, 164_000, 300_000)
"""Env steps at which the report looks, where every run of a task has come so far."""


@dataclass(frozen=True)
class Method:
    """What follows `diffsurrogate train`, and its colour in the picture."""

    colour: str
    name: str
    options: tuple[str, ...] = ()


_CONSTANT = ("--shac.update.weight-steps", "None")


def _remembering(method: str) -> tuple[str, ...]:
    """Return options for a policy and a critic with a GRU of 64."""
    parts = ("actor", "critic")
    return tuple(w for part in parts for w in (f"--{method}.{part}.net.gru-size", "64"))


METHODS = {
    "shac++": Method("#0a3d91", "shac++"),
    "ppo": Method("#009e73", "ppo"),
    "sb3-ppo": Method("#8c8c8c", "sb3-ppo"),
    "sac": Method(
        "#d55e00", "sb3-sac", ("--num-envs", "4", "--sb3.env-steps-per-gradient-step", "1")
    ),
    "weight-0": Method("#cc79a7", "shac++", ("--shac.update.weight", "0")),
    "weight-0.5": Method("#e69f00", "shac++", ("--shac.update.weight", "0.5", *_CONSTANT)),
    "weight-1": Method("#56b4e9", "shac++", ("--shac.update.weight", "1", *_CONSTANT)),
    "shac++-gru": Method("#7f3c8d", "shac++", _remembering("shac")),
    "ppo-gru": Method("#80ba5a", "ppo", _remembering("ppo")),
}
"""`weight-0` is SHAC++ without its learned gradient: PPO's steps by the same settings. The default
of robots falls from weight 1 to 0; the others keep theirs."""
_USUAL = ("shac++", "ppo", "sb3-ppo", "sac")


@dataclass(frozen=True)
class Task:
    """An env, and the CPU-seconds of training each method may take."""

    env: str
    cpu_seconds: float
    options: tuple[str, ...] = ()
    """Of every training."""
    discrete: bool = False
    """SAC cannot make them."""

    @property
    def methods(self) -> list[str]:
        """What can train on it."""
        return [name for name in METHODS if name != "sac" or not self.discrete]


_HIDDEN = ("--max-steps", "200", "--eval-steps", "200")  # they end by themselves, without saying so
_LONG = ("--eval-every", "20")  # 64 episodes of up to 1000 steps are no trifle
TASKS = {
    "pendulum": Task("gymnasium/Pendulum-v1", 25),
    "cartpole": Task("gymnasium/CartPole-v1", 10, discrete=True),
    "halfcheetah": Task("mujoco/HalfCheetah-v5", 75, _LONG),
    "hopper": Task("mujoco/Hopper-v5", 90, _LONG),
    "walker2d": Task("mujoco/Walker2d-v5", 100, _LONG),
    "ant": Task("mujoco/Ant-v5", 150, _LONG),
    "spread": Task("mpe2/simple_spread_v3", 60, ("--eval-steps", "25"), discrete=True),
    "halfcheetah 6x1": Task("mamujoco/HalfCheetah-6x1", 90, _LONG),
    "reacher": Task("mujoco/Reacher-v5", 40),
    "pusher": Task("mujoco/Pusher-v5", 60),
    "double pendulum": Task("mujoco/InvertedDoublePendulum-v5", 25),
    "hidden pendulum": Task("gymnasium/popgym:popgym-PositionOnlyPendulumEasy-v0", 60, _HIDDEN),
    "hidden cartpole": Task(
        "gymnasium/popgym:popgym-PositionOnlyCartPoleEasy-v0", 60, _HIDDEN, discrete=True
    ),
    "reference": Task("mpe2/simple_reference_v3", 40, ("--eval-steps", "25"), discrete=True),
}


def run(task: Task, method: str, seed: int, out: Path) -> None:
    """Train to the end of the budget."""
    torch.set_num_threads(1)
    chosen = METHODS[method]
    arguments = [chosen.name, task.env, *chosen.options, *task.options]
    arguments += ["--seed", str(seed), "--out", str(out)]
    arguments += ["--total-steps", "100000000", "--cpu-limit", str(task.cpu_seconds)]
    arguments += ["--film-steps", "0"]
    log = out.with_name(f"{out.name}.log")
    if train_logged(tuple(arguments), out, log, out.parent) != 0:
        raise RuntimeError(f"{out.name} failed, see {log}")


# --- report --------------------------------------------------------------------------------------


Curve = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Env steps, CPU-seconds and mean return of a run's evaluations."""


def curves(out: Path, name: str, method: str) -> list[Curve]:
    """Return the curves of a method's finished runs on a task; they end in new episodes."""
    found = []
    for folder in sorted(out.glob(f"{name.replace(' ', '-')}-{method}-[0-9]*")):
        if not (folder / "summary.json").is_file():
            continue
        rows = [r for r in RunFolder(folder).metrics() if "evaluation_mean_return" in r]
        last = RunFolder(folder).summary() or {}
        rows.append(last | {"evaluation_mean_return": last["mean_return"]})
        columns = ("env_steps", "cpu_seconds", "evaluation_mean_return")
        steps, seconds, returns = (np.array([row[column] for row in rows]) for column in columns)
        found.append((steps, seconds, returns))
    return found


def held(at: np.ndarray, value: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the last value known at each place; NaN after a curve's end."""
    index = np.searchsorted(at, where, side="right") - 1
    return np.where(where <= at[-1] * 1.02, value[np.clip(index, 0, None)], np.nan)


def median(of: list[Curve], axis: int, where: np.ndarray) -> np.ndarray:
    """Return the median over runs; NaN where a run has ended."""
    return np.median([held(curve[axis], curve[2], where) for curve in of], axis=0)


def told(value: float) -> str:
    """Return a return with three digits at least, a dash if there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def report(out: Path, file: Path, tasks: dict[str, Task]) -> None:
    """Write the table, the figures behind it and the picture."""
    lines, plain = [f"{HEAD}| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"], {}
    shown = [name for name in tasks if any(curves(out, name, m) for m in METHODS)]
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(9, 2.6 * len(shown)), squeeze=False, layout="constrained"
    )
    for row, name in zip(axes, shown, strict=True):
        found = {m: curves(out, name, m) for m in tasks[name].methods}
        found = {m: of for m, of in found.items() if of}
        ends = [curve[0][-1] for m, of in found.items() if m != "sac" for curve in of]
        steps = min(ends, default=0)
        budget = tasks[name].cpu_seconds
        for method, of in found.items():
            at_steps = [float(held(c[0], c[2], np.array([steps]))[0]) for c in of]
            at_end = [float(c[2][-1]) for c in of]
            plain[f"{name} | {method}"] = {
                "return_at_steps": at_steps,
                "env_steps": int(steps),
                "return_at_budget": at_end,
                "cpu_seconds": budget,
                "curves": [[part.round(1).tolist() for part in curve] for curve in of],
            }
            each = " / ".join(map(told, sorted(at_end)))
            on_the_way = (told(value) for value in median(of, 0, np.array([*MARKS, steps])))
            taken = np.median([curve[0][-1] for curve in of])
            lines.append(
                f"| {name} | {method} | {len(of)} | {' | '.join(on_the_way)} at {steps / 1e3:,.0f} "
                f"k | {told(np.median(at_end))} after {taken / 1e3:,.0f} k | {each} |"
            )
        draw(row, found, name, budget)
    figure.savefig(file.with_suffix(".png"), dpi=110)
    write_text(file.with_suffix(".md"), "\n".join(lines) + "\n")
    write_rows(file.with_suffix(".json"), plain)


def draw(row: Iterable[Any], found: dict[str, list[Curve]], name: str, budget: float) -> None:
    """Draw one task's medians, with every run behind them."""
    ends = (max(curve[0][-1] for m, of in found.items() for curve in of), budget)
    labels = ("env steps", "CPU-seconds of training")
    for axis, (plot, end) in enumerate(zip(row, ends, strict=True)):
        for method, of in found.items():
            where = np.linspace(0, end, 200)
            plot.plot(where, median(of, axis, where), color=METHODS[method].colour, label=method)
            for curve in of:
                plot.plot(curve[axis], curve[2], color=METHODS[method].colour, alpha=0.2, lw=0.7)
        plot.set(xlabel=labels[axis], ylabel="return" if axis == 0 else "", title=name)
    plot.legend(fontsize="small")


HEAD = """# SHAC++ on envs without gradients

Mean return of the deterministic policy in 64 episodes, medians over seeds. Every method had the
same CPU-seconds of training, one thread, two runs at a time on two cores; the first columns of
returns are at equal env steps, the last where the shortest run ends; then at equal CPU-seconds, in
new episodes. sb3-ppo (with our preset) and sac (4 copies, a gradient step per env step) are
Stable-Baselines3's; ppo, where it is run, is ours. The weight of SHAC++'s learned gradient falls
from 1 to 0 over 200,000 steps on robots and is .5 elsewhere; weight-0, weight-0.5 and weight-1 keep
theirs, and weight-0 is SHAC++ without its learned gradient. Policy and critic of shac++-gru and
ppo-gru have a GRU. Returns of several agents are summed.
Made by `python examples/benchmarks/any_env.py`; curves in the PNG.

"""
COLUMNS = (
    "task",
    "method",
    "seeds",
    "41 k steps",
    "82 k",
    "164 k",
    "300 k",
    "at equal env steps",
    "at equal CPU-seconds",
    "each seed",
)


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=_USUAL, choices=[*METHODS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--ray-address", help="HOST:PORT of a running Ray cluster")
    parser.add_argument("--share", type=float, default=1.0, help="of the budgets, to try it out")
    parser.add_argument("--runs", type=Path, default=Path("runs/any_env"), help="their folders")
    parser.add_argument("--out", type=Path, default=RESULTS / "any_env", help="without suffix")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    asked = parser.parse_args()
    tasks = {
        name: replace(task, cpu_seconds=asked.share * task.cpu_seconds)
        for name, task in TASKS.items()
    }
    runs = asked.runs.absolute()
    wanted = [
        (tasks[name], method, seed, runs / f"{name.replace(' ', '-')}-{method}-{seed}")
        for seed in asked.seeds
        for name in asked.tasks
        for method in asked.methods
        if method in tasks[name].methods
    ]
    missing = [one for one in wanted if not (one[3] / "summary.json").is_file()]
    failed: list[str] = []
    pool = RayPool(asked.jobs, asked.ray_address)

    def ended(call: Call, result: Exception | None) -> None:
        if result is not None:  # the others go on
            failed.append(f"{call.name}: {type(result).__name__}: {result}")
        print(f"ended: {call.name}{'' if result is None else ' FAILED'}", flush=True)
        report(asked.runs, asked.out, tasks)

    if not asked.report_only:
        asked.runs.mkdir(parents=True, exist_ok=True)
        calls = [Call(name=one[3].name, function=run, arguments=one) for one in missing]
        pool.run(calls, lambda: None, ended)
    report(asked.runs, asked.out, tasks)
    print(json.dumps({"page": str(asked.out.with_suffix(".md"))}))
    if failed or pool.signal:
        raise SystemExit("\n".join(failed) or f"stopped by signal {pool.signal}")


if __name__ == "__main__":
    main()
