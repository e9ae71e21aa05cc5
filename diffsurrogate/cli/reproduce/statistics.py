"""What a grid has trained: its runs, and what each cell of the table comes to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffsurrogate.cli.options import NOT_LEARNED_BY, TrainOptions
from diffsurrogate.cli.report import interquartile_mean
from diffsurrogate.cli.reproduce.figures import Curve
from diffsurrogate.cli.reproduce.table import Cell, PaperTable
from diffsurrogate.config import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder, read_json

_MAY_DIFFER = NOT_LEARNED_BY | {"seed", "checkpoint_every"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run that was begun."""

    cell: Cell
    seed: int
    config: dict[str, Any]
    summary: dict[str, Any] | None
    """None while it is not finished."""
    curve: Curve
    over_maximum: bool
    """Returns are over the true maximum; else of one agent, as they are."""

    @property
    def value(self) -> float:
        """Return of the finished run's policy, in new episodes."""
        return _return_in(self.summary or {}, self.over_maximum, self.agents)

    @property
    def kept(self) -> float:
        """Of the policy that did best in the evaluations on the way, in the same new episodes."""
        return _return_in((self.summary or {})["best_policy"], self.over_maximum, self.agents)

    @property
    def diversity(self) -> float | None:
        """How differently the finished run's agents act on one observation, where that is known."""
        found = (self.summary or {}).get("diversity")
        return None if found is None else float(found)

    @property
    def agents(self) -> int:
        """Of the finished run."""
        return int((self.summary or {}).get("agents", 1))

    @property
    def cpu_seconds(self) -> float:
        """Of the finished run's training."""
        return float((self.summary or {})["cpu_seconds"])

    @property
    def stopped(self) -> str:
        """Why the finished run did."""
        return str((self.summary or {})["stopped"])

    def first_at(self, goal: float) -> tuple[float, float] | None:
        """Return env steps and CPU-seconds of the first evaluation that reached a return."""
        at = np.flatnonzero(self.curve.value >= goal)
        if len(at) == 0:
            return None
        return float(self.curve.env_steps[at[0]]), float(self.curve.cpu_seconds[at[0]])


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a cell comes to, over its finished seeds."""

    cell: Cell
    finished: tuple[int, ...]
    missing: tuple[int, ...]
    mean: float | None
    """Interquartile mean of the return; None without a finished seed."""
    low: float | None
    high: float | None
    kept: float | None
    """Interquartile mean of what the policies kept in `best.pt` earn."""
    diversity: float | None
    """Mean of the policies' diversity, of those that have one."""
    by_row: float | None
    """Over the best cell of the row."""
    row_complete: bool
    paper: float | None
    ceiling: float | None
    """Normalised return of the best scripted policy, if it was given."""
    goal: float | None
    """.9 of what is known to be attainable, at most 1: by the best cell of the row, or by a script
    that sees what the agents see. None where the maximum is not known, or nothing above 0."""
    reached: int
    """Seeds that reached the goal in an evaluation on the way."""
    steps_to_reach: float | None
    """Median over those."""
    cpu_seconds_to_reach: float | None
    cpu_seconds: float
    """Of all finished seeds."""
    ended: dict[str, int]
    """How many seeds stopped for which reason."""

    @property
    def seeds(self) -> str:
        """Finished seeds of all."""
        return f"{len(self.finished)}/{len(self.finished) + len(self.missing)}"


@dataclass(frozen=True)
class Ceilings:
    """Normalised returns of scripted policies, by task and number of agents."""

    best: dict[tuple[str, int | None], float] = field(default_factory=dict)
    """Of any, some of which look into the simulator."""
    from_observations: dict[tuple[str, int | None], float] = field(default_factory=dict)
    """Of those that see what the agents see."""


def read_results(folder: Path, table: PaperTable) -> tuple[list[Result], list[tuple[str, str]]]:
    """Return the runs in a folder in the table's order, and those that cannot be read."""
    results, unreadable = [], []
    for file in sorted(folder.glob("*/config.json")):
        try:
            results.append(_result(RunFolder(file.parent), table))
        except (UsageError, KeyError, ValueError, TypeError) as error:
            unreadable.append((file.parent.name, " ".join(str(error).split())))
    return sorted(results, key=lambda r: (table.place(r.cell), r.seed)), unreadable


def _result(run: RunFolder, table: PaperTable) -> Result:
    options = TrainOptions.from_json(run.config)
    cell, seed = table.cell_of(run.path.name)
    had = (options.method, options.env, options.agents, options.network, options.seed)
    if had != (cell.method, table.tasks[cell.task].env, cell.agents, cell.network, seed):
        raise UsageError(f"it is a run of {' '.join(map(str, had))}, against its name")
    summary = run.summary()
    result = Result(
        cell=cell,
        seed=seed,
        config=options.to_json(),
        summary=summary,
        curve=_curve(run, summary, table.over_maximum),
        over_maximum=table.over_maximum,
    )
    if summary is not None:
        _ = result.value, result.kept  # refuses a summary without them
    return result


def _return_in(figures: dict[str, Any], over_maximum: bool, agents: int) -> float:
    """Return what a summary says: over the true maximum, or of one agent."""
    return float(figures["normalised_return" if over_maximum else "mean_return"]) / (
        1 if over_maximum else agents
    )


def _curve(run: RunFolder, summary: dict[str, Any] | None, over_maximum: bool) -> Curve:
    """Return what evaluations on the way gave."""
    prefix = "evaluation_"
    agents = int((summary or {}).get("agents", 1))
    rows, cpu = [], 0.0
    for row in run.metrics():
        cpu = row.get("cpu_seconds", cpu + row.get("update_cpu_seconds", 0.0))
        found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if "mean_return" in found or "normalised_return" in found:
            rows.append((row["env_steps"], cpu, _return_in(found, over_maximum, agents)))
    steps, seconds, value = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    )
    held = summary is not None and "reached" in summary["stopped"]
    return Curve(env_steps=steps, cpu_seconds=seconds, value=value, held=held)


def read_ceilings(file: Path | None) -> Ceilings:
    """Return what the best of the policies in a file earn.

    Raises:
        UsageError: the file holds none.
    """
    ceilings = Ceilings()
    if file is None:
        return ceilings
    try:
        for row in read_json(file)["rows"]:
            key, value = (str(row["task"]), int(row["agents"])), float(row["normalised_return"])
            ceilings.best[key] = max(ceilings.best.get(key, value), value)
            if not row["full_knowledge"]:
                seen = ceilings.from_observations
                seen[key] = max(seen.get(key, value), value)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file} holds no ceilings ({error!r}); give the JSON that "
            "examples/benchmarks/ceilings.py writes"
        ) from error
    return ceilings


def figures_of(
    table: PaperTable,
    wanted: Iterable[tuple[Cell, int]],
    results: Sequence[Result],
    ceilings: Ceilings,
) -> list[Figures]:
    """Return what each cell comes to, in the table's order.

    Args:
        table: that the cells are of.
        wanted: cells and their seeds.
        results: the runs there are.
        ceilings: to compare with.
    """
    seeds: dict[Cell, set[int]] = {}
    for cell, seed in wanted:
        seeds.setdefault(cell, set()).add(seed)
    done = {(r.cell, r.seed): r for r in results if r.summary is not None}
    runs = {
        cell: {seed: done[cell, seed] for seed in sorted(those) if (cell, seed) in done}
        for cell, those in sorted(seeds.items(), key=lambda item: table.place(item[0]))
    }
    means = {
        cell: interquartile_mean([run.value for run in those.values()])
        for cell, those in runs.items()
        if those
    }
    figures = []
    for cell, those in runs.items():
        row = [other for other in runs if other.row == cell.row]
        best = max((means[other][0] for other in row if other in means), default=0.0)
        mean, low, high = means.get(cell, (None, None, None))
        goal, reached = None, []
        if table.over_maximum:
            attainable = min(1.0, max(best, ceilings.from_observations.get(cell.row, 0.0)))
            goal = 0.9 * attainable if attainable > 0 else None
        if goal is not None:
            reached = [first for run in those.values() if (first := run.first_at(goal))]
        reasons = [run.stopped for run in those.values()]
        figures.append(
            Figures(
                cell=cell,
                finished=tuple(those),
                missing=tuple(sorted(seeds[cell] - set(those))),
                mean=mean,
                low=None if low is None or np.isnan(low) else low,
                high=None if high is None or np.isnan(high) else high,
                kept=_interquartile([run.kept for run in those.values()]),
                diversity=_mean([run.diversity for run in those.values()]),
                by_row=_share(mean, best) if table.over_maximum else None,
                row_complete=all(len(runs[other]) == len(seeds[other]) for other in row),
                paper=table.published(cell),
                ceiling=ceilings.best.get(cell.row),
                goal=goal,
                reached=len(reached),
                steps_to_reach=_median([steps for steps, _ in reached]),
                cpu_seconds_to_reach=_median([cpu for _, cpu in reached]),
                cpu_seconds=float(sum(run.cpu_seconds for run in those.values())),
                ended={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            )
        )
    return figures


def _share(mean: float | None, best: float) -> float | None:
    return mean / best if mean is not None and best > 0 else None


def _interquartile(values: list[float]) -> float | None:
    return interquartile_mean(values)[0] if values else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def mixed_configurations(results: Sequence[Result]) -> list[str]:
    """Return of which cells the runs have different configurations."""
    first: dict[Cell, Result] = {}
    notes = []
    for result in results:
        other = first.setdefault(result.cell, result)
        found = [
            f"{name} {was} and {now}"
            for name, was, now in differences(other.config, result.config)
            if name not in _MAY_DIFFER
        ]
        if found:
            notes.append(
                f"{result.cell.name} mixes configurations, seeds {other.seed} and {result.seed}: "
                f"{', '.join(found)}"
            )
    return notes
