"""A paper's table from what a grid has trained: Markdown, JSON and pictures."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffsurrogate.cli.report.table import markdown_table
from diffsurrogate.cli.reproduce.figures import Curve, draw_curves, draw_table
from diffsurrogate.cli.reproduce.statistics import (
    Figures,
    Result,
    diversities_of,
    figures_of,
    mixed_configurations,
    read_ceilings,
    read_results,
)
from diffsurrogate.cli.reproduce.table import Cell, PaperTable
from diffsurrogate.presets.recipe import Method, Network, Preset
from diffsurrogate.training.run_folder import write_rows, write_text

_RETURNS = """\
Return: of the deterministic policy at the end, in new episodes; the interquartile mean over seeds
(of three or fewer the plain mean) and its 95 % bootstrap interval.{maximum} Kept: the policy that
did best in the evaluations on the way (`checkpoints/best.pt`), in the same new episodes.
CPU-seconds are of training, without evaluations. Diversity: mean distance between what two agents
do on one observation, 0 where all are alike (arXiv:2305.02128); Jensen-Shannon, at most 1
(arXiv:2412.04233), and for actions in a box Wasserstein, too. All runs of a row are compared on
the same states, an equal number of each.
† seeds are missing: figures are of the finished ones only, or measured against a best cell that
may still change. In brackets: finished seeds of those asked for. – [1]: left out for reason 1
below the table. – in the last table: not known, or without meaning there.
"""
_OF_AN_AGENT = " It is of one agent."
_MAXIMUM = """ It is over the true maximum; by the paper's row rule: over the
best cell of the row. Goal: .9 of what is known to be attainable, by the best cell of the row or by
a script that sees what the agents see; steps and CPU-seconds to it are medians over the seeds that
got there."""


def write_table(
    table: PaperTable,
    out: Path,
    preset: Preset,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    ceilings: Path | None = None,
    left_out: Sequence[Cell] = (),
) -> str:
    """Write `<table>.md`, `.json`, `.png` and the learning curves; return the Markdown.

    Cells that were begun are in the table even if they are not asked for, and so are those that
    were asked for and left out.

    Raises:
        UsageError: the ceilings cannot be read.
    """
    results, unreadable = read_results(out / preset, table)
    known = read_ceilings(ceilings)
    wanted = {(cell, seed) for cell in cells for seed in seeds}
    wanted |= {(result.cell, result.seed) for result in results}
    diversities, without_policy = diversities_of(out / preset, results)
    figures = figures_of(table, wanted, results, known, diversities)
    begun = {result.cell for result in results}
    grid = _Grid.of(table, figures, begun, left_out, preset)
    text = _markdown(table, figures, grid, preset)
    notes = mixed_configurations(results) + [
        f"{name} cannot be read: {why}" for name, why in [*unreadable, *without_policy]
    ]
    text += "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{table.name}.md", text)
    cells_of = [_plain(table, f, results) for f in figures]
    write_rows(
        out / f"{table.name}.json", {"paper": table.citation, "preset": preset, "cells": cells_of}
    )
    draw_table(table, [(f.cell, f.mean, f.paper, f.seeds, not f.missing) for f in figures], out)
    curves = {f.cell: [r.curve for r in results if r.cell == f.cell and r.summary] for f in figures}
    incomplete = {f.cell for f in figures if f.missing}
    for against in ("steps", "cpu"):
        draw_curves(table, curves, incomplete, against, out / f"curves-{against}.png")
    return text


def _plain(table: PaperTable, figures: Figures, results: Sequence[Result]) -> dict[str, Any]:
    """Return a cell for JSON, with its runs."""
    measure = "normalised_return" if table.over_maximum else "return_of_an_agent"
    runs = {
        r.seed: {name: r.summary[name] for name in ("env_steps", "cpu_seconds", "stopped")}
        | {measure: r.value, "kept": r.kept, "curve": _rounded(r.curve, measure)}
        for r in results
        if r.cell == figures.cell and r.summary is not None
    }
    content = asdict(figures)
    return content.pop("cell") | content | {"runs": runs}


def _rounded(curve: Curve, measure: str) -> dict[str, list[int] | list[float]]:
    return {
        "env_steps": [int(steps) for steps in curve.env_steps],
        "cpu_seconds": [round(float(cpu), 1) for cpu in curve.cpu_seconds],
        measure: [round(float(value), 4) for value in curve.value],
    }


# --- Markdown --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """A table of the paper's shape, and what is known of its cells."""

    rows: Sequence[tuple[str, int | None]]
    columns: Sequence[tuple[Network, Method, str]]
    figures: Mapping[Cell, Figures]
    begun: Set[Cell]
    why_not: Mapping[Cell, str]
    """Why cells without figures are left out."""

    @classmethod
    def of(
        cls,
        table: PaperTable,
        figures: Sequence[Figures],
        begun: Set[Cell],
        left_out: Sequence[Cell],
        preset: Preset,
    ) -> "_Grid":
        """Lay out cells with figures and those that were left out."""
        known = {f.cell: f for f in figures}
        cells = sorted({*known, *left_out}, key=table.place)
        rows = list(dict.fromkeys(cell.row for cell in cells))
        columns = sorted({cell.column for cell in cells}, key=table.place_of)
        reasons = {
            cell: table.why_not(cell, preset)
            for cell in (_cell(row, column) for row in rows for column in columns)
            if cell not in known
        }
        why_not = {cell: reason for cell, reason in reasons.items() if reason is not None}
        return cls(rows=rows, columns=columns, figures=known, begun=begun, why_not=why_not)

    @property
    def reasons(self) -> list[str]:
        """Each reason once, in the order of the cells."""
        return list(dict.fromkeys(self.why_not.values()))

    def mean(self, cell: Cell) -> str:
        """Return a cell's return and its seeds, or why there is none."""
        if cell in self.why_not:
            return f"– [{self.reasons.index(self.why_not[cell]) + 1}]"
        f = self.figures.get(cell)
        if f is None or f.mean is None:
            return "unfinished" if cell in self.begun else "not run"
        return f"{f.mean:.2f} ({f.seeds})" if abs(f.mean) < 100 else f"{f.mean:.0f} ({f.seeds})"

    def markdown(self, text: Callable[[Cell], str]) -> str:
        """Return the table with the text of each cell, and the reasons below."""
        content = [
            [task, "" if agents is None else str(agents)]
            + [text(_cell((task, agents), column)) for column in self.columns]
            for task, agents in self.rows
        ]
        head = ["task", "agents", *(" ".join(column).rstrip() for column in self.columns)]
        below = [f"- [{at}] {reason}" for at, reason in enumerate(self.reasons, 1)]
        return markdown_table(head, content) + "".join(f"\n{line}" for line in below)


def _cell(row: tuple[str, int | None], column: tuple[Network, Method, str]) -> Cell:
    (task, agents), (network, method, variant) = row, column
    return Cell(task=task, agents=agents, network=network, method=method, variant=variant)


def _markdown(table: PaperTable, figures: Sequence[Figures], grid: _Grid, preset: Preset) -> str:
    total = sum(f.cpu_seconds for f in figures)
    finished = sum(len(f.finished) for f in figures)
    all_runs = finished + sum(len(f.missing) for f in figures)
    over = table.over_maximum
    parts = [
        f"# {table.title}\n",
        f"{finished} of {all_runs} runs finished, {total:,.0f} CPU-seconds, preset {preset}.\n",
        _RETURNS.format(maximum=_MAXIMUM if over else _OF_AN_AGENT),
        "## Return against the true maximum\n" if over else "## Return of an agent\n",
        grid.markdown(grid.mean),
    ]
    if over and any(f.paper is not None for f in figures):
        rule = "## By the paper's row rule, the paper's own figure in brackets\n"
        parts += [rule, grid.markdown(lambda cell: _against_row(table, grid, cell))]
    parts += ["## Cell by cell\n", _details(table, figures), f"Paper: {table.citation}\n"]
    return "\n".join(parts)


def _against_row(table: PaperTable, grid: _Grid, cell: Cell) -> str:
    f, paper = grid.figures.get(cell), table.published(cell)
    if f is None or f.mean is None:
        ours = grid.mean(cell)
    else:
        ours = _text(f.by_row, ".2f", "" if f.row_complete else "†")
    return ours if paper is None else f"{ours} ({paper:.2f})"


def _text(value: float | int | None, form: str, mark: str = "", nothing: str = "–") -> str:
    return nothing if value is None else f"{value:{form}}{mark}"


def _details(table: PaperTable, figures: Sequence[Figures]) -> str:
    rows = [_row(table, f) for f in figures]
    shown = [
        name
        for name in rows[0]
        if not (name == "of the best script" and all(f.ceiling is None for f in figures))
        and not (name == "diversity" and all(f.diversity is None for f in figures))
        and not (name == "Wasserstein" and all(f.wasserstein is None for f in figures))
    ]
    return markdown_table(shown, [[row[name] for name in shown] for row in rows])


def _row(table: PaperTable, f: Figures) -> dict[str, str]:
    """Return what there is to say of a cell, by the head of its column."""
    mark, unsure = "†" if f.missing and f.finished else "", "" if f.row_complete else "†"
    share = f.mean / f.ceiling if f.mean is not None and f.ceiling else None
    of_ceiling = f"{mark} of {f.ceiling:.2f}" if share is not None else ""
    aims = {
        "row rule": _text(f.by_row, ".2f", unsure),
        "paper": _text(f.paper, ".2f"),
        "goal": _text(f.goal, ".2f", unsure),
        "reached by": (
            f"{f.reached}/{len(f.finished)}" if f.finished and f.goal is not None else "–"
        ),
        "CPU-s to goal": _text(f.cpu_seconds_to_reach, ".1f"),
        "steps to goal": _text(f.steps_to_reach, ",.0f"),
    }
    return {
        "task": f.cell.task,
        "agents": _text(f.cell.agents, "d", nothing=""),
        "network": f.cell.network,
        "method": f.cell.column_title,
        "seeds": f.seeds,
        "return (IQM, 95 %)": _text(f.mean, ".3f", mark)
        + ("" if f.low is None else f" [{f.low:.3f}, {f.high:.3f}]"),
        "kept": _text(f.kept, ".3f"),
        "of the best script": _text(share, ".2f", of_ceiling),
        "diversity": _text(f.diversity, ".3f"),
        "Wasserstein": _text(f.wasserstein, ".3f"),
        **(aims if table.over_maximum else {"paper": aims["paper"]}),
        "CPU-s per run": _text(f.cpu_seconds / len(f.finished) if f.finished else None, ".1f"),
        "ended": ", ".join(f"{count} {why}" for why, count in f.ended.items()) or "–",
    }
