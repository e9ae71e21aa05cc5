"""What a grid has trained: its runs, and what each cell of the table comes to."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.diversity import Distance, policy_diversity
from diffsurrogate.cli.options import NOT_LEARNED_BY, TrainOptions
from diffsurrogate.cli.report.table import interquartile_mean
from diffsurrogate.cli.reproduce.figures import Curve
from diffsurrogate.cli.reproduce.table import Cell, PaperTable
from diffsurrogate.config import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.trained_policy import load_policy
from diffsurrogate.training.run_folder import RunFolder, read_json

_MAY_DIFFER = NOT_LEARNED_BY | {"seed", "checkpoint_every"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run that was begun."""

    cell: Cell
    seed: int
    config: dict[str, Any]
    summary: dict[str, Any] | None
    """None while it is not finished, and then so are the next two, and `cpu_seconds`."""
    value: float | None
    """Return of the policy at the end, in new episodes: over the true maximum, or of one agent."""
    kept: float | None
    """Of the policy that did best in the evaluations on the way, in the same new episodes."""
    comparable: bool
    """Whether its agents can be compared on one observation."""
    cpu_seconds: float | None
    """Of training."""
    curve: Curve

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
    """Mean Jensen-Shannon distance of agents, over seeds, on states that all runs of the row have
    in common; None where agents cannot be compared, or no run of the row kept its states."""
    wasserstein: float | None
    """The same with the Wasserstein distance; None also where actions are discrete."""
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
    over, agents = table.over_maximum, int((summary or {}).get("agents", 1))
    known: dict[str, Any] = dict.fromkeys(("value", "kept", "cpu_seconds"))
    if summary is not None:
        known["value"] = _return_in(summary, over, agents)
        known["kept"] = _return_in(summary["best_policy"], over, agents)
        known["cpu_seconds"] = float(summary["cpu_seconds"])
    held = summary is not None and "reached" in summary["stopped"]
    curve = _curve(run, over, agents, held)
    config = options.to_json()
    known["comparable"] = summary is not None and summary.get("diversity") is not None
    return Result(cell=cell, seed=seed, config=config, summary=summary, curve=curve, **known)


def _return_in(figures: dict[str, Any], over_maximum: bool, agents: int) -> float:
    """Return what a summary says: over the true maximum, or of one agent."""
    return float(figures["normalised_return" if over_maximum else "mean_return"]) / (
        1 if over_maximum else agents
    )


def _curve(run: RunFolder, over_maximum: bool, agents: int, held: bool) -> Curve:
    """Return what evaluations on the way gave."""
    prefix = "evaluation_"
    rows, cpu = [], 0.0
    for row in run.metrics():
        cpu = row.get("cpu_seconds", cpu + row.get("update_cpu_seconds", 0.0))
        found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if "mean_return" in found or "normalised_return" in found:
            rows.append((row["env_steps"], cpu, _return_in(found, over_maximum, agents)))
    steps, seconds, value = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    )
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


Diversities = Mapping[tuple[Cell, int], Mapping[Distance, float]]


def diversities_of(
    folder: Path, results: Sequence[Result]
) -> tuple[Diversities, list[tuple[str, str]]]:
    """Return how differently the agents of each run act, and the runs that cannot be read.

    Policies are compared on the same states: an equal number from each run in the same row.
    """
    rows: dict[Any, dict[tuple[Cell, int], tuple[Actor, Tensor]]] = {}
    unreadable = []
    for result in results:
        run = folder / f"{result.cell.name}-{result.seed}"
        try:
            seen = RunFolder(run).seen() if result.comparable else None
            if seen is None:
                continue
            actor = load_policy(run, which="last").actor
        except UsageError as error:
            unreadable.append((run.name, " ".join(str(error).split())))
            continue
        assert isinstance(actor, Actor)  # agents of Stable-Baselines3 are not comparable
        row = rows.setdefault((result.cell.row, seen.shape[1:]), {})
        row[result.cell, result.seed] = actor, seen
    found: dict[tuple[Cell, int], Mapping[Distance, float]] = {}
    for row in rows.values():
        fewest = min(len(seen) for _, seen in row.values())
        states = torch.cat([seen[:: len(seen) // fewest][:fewest] for _, seen in row.values()])
        found |= {key: _diversities(actor, states) for key, (actor, _) in row.items()}
    return found, unreadable


def _diversities(actor: Actor, states: Tensor) -> Mapping[Distance, float]:
    distances: tuple[Distance, ...] = ("jensen-shannon", "wasserstein")
    return {
        distance: policy_diversity(actor, states, distance=distance)
        for distance in distances[: 1 if actor.discrete else 2]
    }


def figures_of(
    table: PaperTable,
    wanted: Iterable[tuple[Cell, int]],
    results: Sequence[Result],
    ceilings: Ceilings,
    diversities: Diversities,
) -> list[Figures]:
    """Return what each cell comes to, in the table's order."""
    seeds: dict[Cell, set[int]] = {}
    for cell, seed in wanted:
        seeds.setdefault(cell, set()).add(seed)
    done = {(r.cell, r.seed): r for r in results if r.summary is not None}
    runs = {
        cell: {seed: done[cell, seed] for seed in sorted(those) if (cell, seed) in done}
        for cell, those in sorted(seeds.items(), key=lambda item: table.place(item[0]))
    }
    intervals = {
        cell: interquartile_mean(_known(run.value for run in those.values()))
        for cell, those in runs.items()
        if those
    }
    figures = []
    for cell, those in runs.items():
        row = [other for other in runs if other.row == cell.row]
        best = max((intervals[other][0] for other in row if other in intervals), default=0.0)
        mean, low, high = intervals.get(cell, (None, None, None))
        goal, reached = None, []
        if table.over_maximum:
            attainable = min(1.0, max(best, ceilings.from_observations.get(cell.row, 0.0)))
            goal = 0.9 * attainable if attainable > 0 else None
        if goal is not None:
            reached = [first for run in those.values() if (first := run.first_at(goal))]
        has_share = table.over_maximum and mean is not None and best > 0
        figures.append(
            Figures(
                cell=cell,
                finished=tuple(those),
                missing=tuple(sorted(seeds[cell] - set(those))),
                mean=mean,
                low=low,
                high=high,
                kept=_of(stats.trim_mean, _known(run.kept for run in those.values()), 0.25),
                diversity=_mean_distance(diversities, cell, "jensen-shannon"),
                wasserstein=_mean_distance(diversities, cell, "wasserstein"),
                by_row=mean / best if has_share and mean is not None else None,
                row_complete=all(len(runs[other]) == len(seeds[other]) for other in row),
                paper=table.published(cell),
                ceiling=ceilings.best.get(cell.row),
                goal=goal,
                reached=len(reached),
                steps_to_reach=_of(np.median, [steps for steps, _ in reached]),
                cpu_seconds_to_reach=_of(np.median, [cpu for _, cpu in reached]),
                cpu_seconds=sum(_known(run.cpu_seconds for run in those.values()), start=0.0),
                ended=dict(Counter(sorted((r.summary or {})["stopped"] for r in those.values()))),
            )
        )
    return figures


def _mean_distance(diversities: Diversities, cell: Cell, distance: Distance) -> float | None:
    own = [found.get(distance) for (of, _), found in diversities.items() if of == cell]
    return _of(np.mean, _known(own))


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _of(statistic: Callable[..., Any], values: list[float], *options: float) -> float | None:
    """Return a statistic of values; None without any."""
    return float(statistic(values, *options)) if values else None


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
