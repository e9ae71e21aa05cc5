"""The paper's Table 1 from what a grid has trained: Markdown, JSON and pictures."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffsurrogate.cli.options import NOT_LEARNED_BY, Preset, TrainOptions
from diffsurrogate.cli.paper_table import CITATION, COLUMNS, NETWORKS, TASKS, Cell, published
from diffsurrogate.cli.report import interquartile_mean
from diffsurrogate.cli.table_pictures import Curve, draw_curves, draw_table
from diffsurrogate.configuration import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.run import RunFolder, read_json, write_json

_MAY_DIFFER = NOT_LEARNED_BY | {"seed", "checkpoint_every"}
_ABOUT = """\
Return: of the deterministic policy at the end, in new episodes, over the true maximum; the
interquartile mean over seeds and its 95 % bootstrap interval. By the paper's row rule: over the
best cell of the row. CPU-seconds are of training, without evaluations.
† seeds are missing: figures are of the finished ones only, or measured against a best cell that
may still change. … none is finished. – not in the table.
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run that was begun."""

    cell: Cell
    seed: int
    config: dict[str, Any]
    summary: dict[str, Any] | None
    """None while it is not finished."""
    curve: Curve


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a cell comes to, over its finished seeds."""

    cell: Cell
    finished: tuple[int, ...]
    missing: tuple[int, ...]
    mean: float | None
    """Interquartile mean of the normalised return; None without a finished seed."""
    low: float | None
    high: float | None
    by_row: float | None
    """Over the best cell of the row."""
    row_complete: bool
    paper: float | None
    ceiling: float | None
    """Normalised return of the best scripted policy, if it was given."""
    reached: int
    """Seeds that reached .9 of the true maximum."""
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


def write_table(
    out: Path,
    preset: Preset,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    ceilings: Path | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Write `table1.md`, `.json`, `.png` and the learning curves; return the Markdown.

    Args:
        out: folder of the grid.
        preset: whose runs.
        cells: that are to be in the table; others that were begun are as well.
        seeds: of each of these cells.
        ceilings: JSON of examples/benchmarks/ceilings.py.
        notes: what else to say below the table.

    Raises:
        UsageError: the ceilings cannot be read.
    """
    results, unreadable = _results(out / preset)
    known = _ceilings(ceilings)
    wanted = {(cell, seed) for cell in cells for seed in seeds}
    wanted |= {(result.cell, result.seed) for result in results}
    figures = _figures(wanted, results, known)
    text = _markdown(figures, preset)
    notes = [*notes, *_mixed(results)]
    notes += [f"{name} cannot be read: {why}" for name, why in unreadable]
    text += "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".table1.md.{os.getpid()}.partial"
    partial.write_text(text)
    partial.replace(out / "table1.md")
    content = {"paper": CITATION, "preset": preset, "cells": [_plain(f, results) for f in figures]}
    write_json(out / "table1.json", content)
    draw_table([(f.cell, f.mean, f.paper, f.seeds, not f.missing) for f in figures], out)
    curves = {f.cell: [r.curve for r in results if r.cell == f.cell and r.summary] for f in figures}
    incomplete = {f.cell for f in figures if f.missing}
    for against in ("steps", "cpu"):
        draw_curves(curves, incomplete, against, out / f"curves-{against}.png")
    return text


# --- reading ---------------------------------------------------------------------------------


def _results(folder: Path) -> tuple[list[Result], list[tuple[str, str]]]:
    """Return the runs in a folder in the table's order, and those that cannot be read."""
    results, unreadable = [], []
    for file in sorted(folder.glob("*/config.json")):
        try:
            results.append(_result(RunFolder(file.parent)))
        except (UsageError, KeyError, ValueError, TypeError) as error:
            unreadable.append((file.parent.name, " ".join(str(error).split())))
    return sorted(results, key=lambda r: (r.cell.place, r.seed)), unreadable


def _result(run: RunFolder) -> Result:
    options = TrainOptions.from_json(run.config)
    tasks = {f"paper/{task}": task for task in TASKS}
    if options.env not in tasks:
        raise UsageError(f"{options.env} is not in this table")
    cell = Cell(
        task=tasks[options.env],
        agents=options.agents or 1,
        method=options.method,
        network=options.network,
    )
    summary = run.summary()
    if summary is not None:
        summary["normalised_return"] = float(summary["normalised_return"])
    return Result(
        cell=cell,
        seed=options.seed,
        config=options.to_json(),
        summary=summary,
        curve=_curve(run, summary),
    )


def _curve(run: RunFolder, summary: dict[str, Any] | None) -> Curve:
    """Return what evaluations on the way gave."""
    rows, cpu = [], 0.0
    for row in run.metrics():
        cpu = row.get("cpu_seconds", cpu + row.get("update_cpu_seconds", 0.0))
        if "evaluation_normalised_return" in row:
            rows.append((row["env_steps"], cpu, row["evaluation_normalised_return"]))
    steps, seconds, value = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    )
    held = summary is not None and "reached" in summary["stopped"]
    return Curve(env_steps=steps, cpu_seconds=seconds, value=value, held=held)


def _ceilings(file: Path | None) -> dict[tuple[str, int], float]:
    """Return by task and number of agents what the best of the policies in a file earns."""
    best: dict[tuple[str, int], float] = {}
    if file is None:
        return best
    try:
        for row in read_json(file)["rows"]:
            key = (str(row["task"]), int(row["agents"]))
            best[key] = max(best.get(key, -float("inf")), float(row["normalised_return"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file} holds no ceilings ({error!r}); give the JSON that "
            "examples/benchmarks/ceilings.py writes"
        ) from error
    return best


# --- figures ---------------------------------------------------------------------------------


def _figures(
    wanted: Iterable[tuple[Cell, int]],
    results: Sequence[Result],
    ceilings: dict[tuple[str, int], float],
) -> list[Figures]:
    seeds: dict[Cell, set[int]] = {}
    for cell, seed in wanted:
        seeds.setdefault(cell, set()).add(seed)
    done = {(r.cell, r.seed): r.summary for r in results if r.summary is not None}
    summaries = {
        cell: {seed: done[cell, seed] for seed in sorted(those) if (cell, seed) in done}
        for cell, those in sorted(seeds.items(), key=lambda item: item[0].place)
    }
    means = {
        cell: interquartile_mean([s["normalised_return"] for s in those.values()])
        for cell, those in summaries.items()
        if those
    }
    figures = []
    for cell, those in summaries.items():
        row = [other for other in summaries if other.row == cell.row]
        best = max((means[other][0] for other in row if other in means), default=0.0)
        mean, low, high = means.get(cell, (None, None, None))
        reached = [s["reached_0.9"] for s in those.values() if s["reached_0.9"]]
        reasons = [str(s["stopped"]) for s in those.values()]
        figures.append(
            Figures(
                cell=cell,
                finished=tuple(those),
                missing=tuple(sorted(seeds[cell] - set(those))),
                mean=mean,
                low=None if low is None or np.isnan(low) else low,
                high=None if high is None or np.isnan(high) else high,
                by_row=mean / best if mean is not None and best > 0 else None,
                row_complete=all(len(summaries[other]) == len(seeds[other]) for other in row),
                paper=published(cell),
                ceiling=ceilings.get(cell.row),
                reached=len(reached),
                steps_to_reach=_median([float(r["env_steps"]) for r in reached]),
                cpu_seconds_to_reach=_median([float(r["cpu_seconds"]) for r in reached]),
                cpu_seconds=float(sum(s["cpu_seconds"] for s in those.values())),
                ended={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            )
        )
    return figures


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mixed(results: Sequence[Result]) -> list[str]:
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


def _plain(figures: Figures, results: Sequence[Result]) -> dict[str, Any]:
    """Return a cell for JSON, with its runs."""
    runs = {
        r.seed: {
            name: r.summary[name]
            for name in ("normalised_return", "env_steps", "cpu_seconds", "stopped", "reached_0.9")
        }
        for r in results
        if r.cell == figures.cell and r.summary is not None
    }
    content = asdict(figures)
    return content.pop("cell") | content | {"runs": runs}


# --- Markdown --------------------------------------------------------------------------------


def _markdown(figures: Sequence[Figures], preset: Preset) -> str:
    total = sum(f.cpu_seconds for f in figures)
    finished, all_runs = (
        sum(len(f.finished) for f in figures),
        sum(len(f.finished) + len(f.missing) for f in figures),
    )
    parts = [
        "# Table 1 of the SHAC++ paper\n",
        f"{finished} of {all_runs} runs finished, {total:,.0f} CPU-seconds, preset {preset}.\n",
        _ABOUT,
        "## Return against the true maximum\n",
        _grid(figures, _against_maximum),
        "## By the paper's row rule, the paper's own figure in brackets\n",
        _grid(figures, _against_row),
        "## Cell by cell\n",
        _details(figures),
        f"Paper: {CITATION}\n",
    ]
    return "\n".join(parts)


def _against_maximum(figures: Figures) -> str:
    if figures.mean is None:
        return "…"
    return f"{figures.mean:.2f}{'†' if figures.missing else ''}"


def _against_row(figures: Figures) -> str:
    ours = "…" if figures.mean is None else "–"
    if figures.by_row is not None:
        ours = f"{figures.by_row:.2f}{'' if figures.row_complete else '†'}"
    return ours if figures.paper is None else f"{ours} ({figures.paper:.2f})"


def _grid(figures: Sequence[Figures], text: Any) -> str:
    """Return a table of the paper's shape."""
    columns = sorted(
        {(f.cell.network, f.cell.method) for f in figures},
        key=lambda c: (NETWORKS.index(c[0]), COLUMNS.index(c[1])),
    )
    rows: dict[tuple[str, int], dict[tuple[str, str], str]] = {}
    for f in figures:
        rows.setdefault(f.cell.row, {})[f.cell.network, f.cell.method] = text(f)
    lines = [
        _line(["task", "agents", *(f"{network} {method}" for network, method in columns)]),
        _line(["---"] * (2 + len(columns))),
        *(
            _line([task, str(agents), *(row.get(column, "–") for column in columns)])
            for (task, agents), row in rows.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _details(figures: Sequence[Figures]) -> str:
    ceilings = any(f.ceiling is not None for f in figures)
    head = ["task", "agents", "network", "method", "seeds", "return (IQM, 95 %)"]
    head += ["of the best script"] if ceilings else []
    head += ["row rule", "paper", "reached .9", "CPU-s to .9 (median)", "steps to .9 (median)"]
    head += ["CPU-s per run", "ended"]
    lines = [_line(head), _line(["---"] * len(head))]
    for f in figures:
        mark = "†" if f.missing and f.finished else ""
        mean = "…" if f.mean is None else f"{f.mean:.3f}{mark}"
        if f.low is not None:
            mean += f" [{f.low:.3f}, {f.high:.3f}]"
        cells = [f.cell.task, str(f.cell.agents), f.cell.network, f.cell.method, f.seeds, mean]
        if ceilings:
            share = f.mean / f.ceiling if f.mean is not None and f.ceiling else None
            cells.append("–" if share is None else f"{share:.2f}{mark} of {f.ceiling:.2f}")
        row = "–" if f.by_row is None else f"{f.by_row:.2f}{'' if f.row_complete else '†'}"
        cells += [row, "–" if f.paper is None else f"{f.paper:.2f}"]
        cells.append(f"{f.reached}/{len(f.finished)}" if f.finished else "–")
        cells.append("–" if f.cpu_seconds_to_reach is None else f"{f.cpu_seconds_to_reach:.1f}")
        cells.append("–" if f.steps_to_reach is None else f"{f.steps_to_reach:,.0f}")
        cells.append(f"{f.cpu_seconds / len(f.finished):.1f}" if f.finished else "–")
        cells.append(", ".join(f"{count} {why}" for why, count in f.ended.items()) or "–")
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
