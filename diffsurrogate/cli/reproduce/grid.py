"""A grid of trainings: which are finished, and how to run the others side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import NOT_LEARNED_BY, TrainOptions
from diffsurrogate.cli.reproduce.logged_run import train_logged
from diffsurrogate.cli.reproduce.pool import Call, RayPool
from diffsurrogate.cli.reproduce.table import Cell
from diffsurrogate.config import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder

_BUDGET = ("total_steps", "time_limit", "cpu_limit", "stop_at")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell with one seed."""

    cell: Cell
    seed: int
    path: Path
    arguments: tuple[str, ...]
    """What follows `diffsurrogate train`, but for the seed and the folder."""

    @property
    def title(self) -> str:
        """For people."""
        return (
            f"{self.cell.column_title} {self.cell.row_title} {self.cell.network} seed {self.seed}"
        )

    @property
    def command(self) -> tuple[str, ...]:
        """What follows `diffsurrogate train` to start it."""
        return (*self.arguments, "--seed", str(self.seed), "--out", str(self.path))

    @property
    def log(self) -> Path:
        """What the training says."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def finished(self) -> bool:
        """Whether it left a summary."""
        return (self.path / "summary.json").is_file()


def states_of(runs: Sequence[Run]) -> dict[Run, str]:
    """Return whether each run is new, interrupted, finished or to prolong.

    Raises:
        UsageError: options are wrong, or a folder holds a run with another configuration.
    """
    states, tried = {}, set[tuple[object, ...]]()
    for run in runs:
        exists = (run.path / "config.json").is_file()
        kind = (run.cell.task, run.cell.column)
        if exists or kind not in tried:
            tried.add(kind)
            wanted = read_train(run.command)
        states[run] = _state(run, wanted) if exists else "new"
    return states


def count(states: dict[Run, str]) -> str:
    """Return how many runs are in which state."""
    values = list(states.values())
    return ", ".join(f"{values.count(state)} {state}" for state in sorted(set(values)))


def train_all(
    runs: Sequence[Run], states: dict[Run, str], pool: RayPool
) -> tuple[int, dict[Run, str]]:
    """Run what is not finished; return how many are, and what became of those that failed.

    Raises:
        UsageError: Ray cannot be used.
    """
    failed: dict[Run, str] = {}
    done = [run for run in runs if states[run] == "finished"]
    calls: dict[Call, Run] = {}
    for run in [run for run in runs if run not in done]:
        arguments = (run.command, run.path, run.log, Path.cwd())
        calls[Call(name=run.path.name, function=train_logged, arguments=arguments)] = run
        run.path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(runs), initial=len(done), unit="run", disable=None) as bar:

        def started() -> None:
            bar.set_postfix_str(", ".join(pool.names))

        def ended(call: Call, result: int | Exception) -> None:
            run = calls[call]
            if result == 0 and run.finished:
                done.append(run)
                bar.update()
                bar.write(f"{_result(run)}  [{len(done)}/{len(runs)}]")
            elif not pool.signal:
                failed[run] = f"status {result}" if isinstance(result, int) else str(result)
                bar.write(f"failed: {run.title}")

        pool.run(list(calls), started, ended, bar.write)
    return len(done), failed


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, indented."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _state(run: Run, wanted: TrainOptions) -> str:
    """Return the state of a run that was started, if it is the run that is wanted."""
    folder = RunFolder(run.path)
    had = TrainOptions.from_json(folder.config)
    summary = folder.summary()
    found = [d for d in differences(asdict(had), asdict(wanted)) if d[0] not in NOT_LEARNED_BY]
    for name, was, now in found:
        raised = was is not None and (now is None or now > was)  # None is no limit
        if name not in _BUDGET or not raised:
            raise UsageError(
                f"the run in {run.path} has {name} {was}, not {now}; repeat the command it was "
                "started with (a budget may be raised), or give another --out"
            )
    if summary is None:
        return "interrupted"
    return "finished" if not found or _done(summary, had, wanted) else "to prolong"


def _done(summary: dict[str, Any], had: TrainOptions, wanted: TrainOptions) -> bool:
    """Return whether a finished run has nothing left to do under a larger budget."""
    cpu, wall, goal = wanted.cpu_limit, wanted.time_limit, had.stop_at
    return (
        summary["env_steps"] >= wanted.total_steps
        or (cpu is not None and summary["cpu_seconds"] >= cpu)
        or (wall is not None and summary["wall_seconds"] >= wall)
        or (goal is not None and goal == wanted.stop_at and "reached" in summary["stopped"])
    )


def _result(run: Run) -> str:
    summary = RunFolder(run.path).summary() or {}
    reached = summary["normalised_return"]
    value = f"return {summary['mean_return']:.4g}"
    if reached is not None:
        value = f"normalised return {reached:.3f}"
    return f"{run.title}: {value}, {summary['cpu_seconds']:.1f} CPU-s"
