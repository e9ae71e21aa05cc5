"""The paper's Table 1 from what a grid has trained: Markdown, JSON and pictures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffsurrogate.cli.options import Preset
from diffsurrogate.cli.paper_table import CITATION, COLUMNS, NETWORKS, Cell
from diffsurrogate.cli.table_figures import (
    Figures,
    Result,
    figures_of,
    mixed_configurations,
    read_ceilings,
    read_results,
)
from diffsurrogate.cli.table_pictures import Curve, draw_curves, draw_table
from diffsurrogate.run import write_json, write_text

_ABOUT = """\
Return: of the deterministic policy at the end, in new episodes, over the true maximum; the
interquartile mean over seeds and its 95 % bootstrap interval. By the paper's row rule: over the
best cell of the row. Goal: .9 of what is known to be attainable, by the best cell of the row or by
a script that sees what the agents see; steps and CPU-seconds to it are medians over the seeds that
got there. Kept: the policy that did best in the evaluations on the way (`checkpoints/best.pt`),
in the same new episodes. CPU-seconds are of training, without evaluations.
† seeds are missing: figures are of the finished ones only, or measured against a best cell that
may still change. … none is finished. – not in the table.
"""


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
    results, unreadable = read_results(out / preset)
    known = read_ceilings(ceilings)
    wanted = {(cell, seed) for cell in cells for seed in seeds}
    wanted |= {(result.cell, result.seed) for result in results}
    figures = figures_of(wanted, results, known)
    text = _markdown(figures, preset)
    notes = [*notes, *mixed_configurations(results)]
    notes += [f"{name} cannot be read: {why}" for name, why in unreadable]
    text += "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "table1.md", text)
    content = {"paper": CITATION, "preset": preset, "cells": [_plain(f, results) for f in figures]}
    write_json(out / "table1.json", content)
    draw_table([(f.cell, f.mean, f.paper, f.seeds, not f.missing) for f in figures], out)
    curves = {f.cell: [r.curve for r in results if r.cell == f.cell and r.summary] for f in figures}
    incomplete = {f.cell for f in figures if f.missing}
    for against in ("steps", "cpu"):
        draw_curves(curves, incomplete, against, out / f"curves-{against}.png")
    return text


def _plain(figures: Figures, results: Sequence[Result]) -> dict[str, Any]:
    """Return a cell for JSON, with its runs."""
    runs = {
        r.seed: {
            name: r.summary[name]
            for name in ("normalised_return", "env_steps", "cpu_seconds", "stopped")
        }
        | {"kept": r.kept_return}
        | {"curve": _rounded(r.curve)}
        for r in results
        if r.cell == figures.cell and r.summary is not None
    }
    content = asdict(figures)
    return content.pop("cell") | content | {"runs": runs}


def _rounded(curve: Curve) -> dict[str, list[int] | list[float]]:
    return {
        "env_steps": [int(steps) for steps in curve.env_steps],
        "cpu_seconds": [round(float(cpu), 1) for cpu in curve.cpu_seconds],
        "normalised_return": [round(float(value), 4) for value in curve.value],
    }


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
    head = ["task", "agents", "network", "method", "seeds", "return (IQM, 95 %)", "kept"]
    head += ["of the best script"] if ceilings else []
    head += ["row rule", "paper", "goal", "reached by", "CPU-s to goal", "steps to goal"]
    head += ["CPU-s per run", "ended"]
    lines = [_line(head), _line(["---"] * len(head))]
    for f in figures:
        mark = "†" if f.missing and f.finished else ""
        mean = "…" if f.mean is None else f"{f.mean:.3f}{mark}"
        if f.low is not None:
            mean += f" [{f.low:.3f}, {f.high:.3f}]"
        cells = [f.cell.task, str(f.cell.agents), f.cell.network, f.cell.method, f.seeds, mean]
        cells.append("–" if f.kept is None else f"{f.kept:.3f}")
        if ceilings:
            share = f.mean / f.ceiling if f.mean is not None and f.ceiling else None
            cells.append("–" if share is None else f"{share:.2f}{mark} of {f.ceiling:.2f}")
        row = "–" if f.by_row is None else f"{f.by_row:.2f}{'' if f.row_complete else '†'}"
        cells += [row, "–" if f.paper is None else f"{f.paper:.2f}"]
        cells.append(f"{f.goal:.2f}{'' if f.row_complete else '†'}")
        cells.append(f"{f.reached}/{len(f.finished)}" if f.finished else "–")
        cells.append("–" if f.cpu_seconds_to_reach is None else f"{f.cpu_seconds_to_reach:.1f}")
        cells.append("–" if f.steps_to_reach is None else f"{f.steps_to_reach:,.0f}")
        cells.append(f"{f.cpu_seconds / len(f.finished):.1f}" if f.finished else "–")
        cells.append(", ".join(f"{count} {why}" for why, count in f.ended.items()) or "–")
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
