"""Pictures of the grid: the table in colours, and learning curves."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import EngFormatter, NullFormatter
from numpy.typing import NDArray

from diffsurrogate.cli.paper_table import COLUMNS, NETWORKS, Cell

matplotlib.use("Agg")
_COLOURS = dict(
    zip(
        COLUMNS,
        ("#8c8c8c", "#e69f00", "#cc79a7", "#a6611a", "#56b4e9", "#009e73", "#0a3d91"),
        strict=True,
    )
)
_LINES = {"mlp": "-", "shared": ":", "transformer": "--"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Evaluations of one run on the way; arrays of one length."""

    env_steps: NDArray[np.float64]
    cpu_seconds: NDArray[np.float64]
    """Of training, when the evaluation began."""
    value: NDArray[np.float64]
    """Normalised return."""
    held: bool
    """The run stopped because it was good enough: it keeps its last value."""


def draw_table(
    entries: Sequence[tuple[Cell, float | None, float | None, str, bool]], out: Path
) -> None:
    """Draw `table1.png`: a coloured cell for each entry.

    Args:
        entries: cell, our normalised return, the paper's figure, finished seeds, whether all are.
        out: folder to write to.
    """
    rows = list(dict.fromkeys(cell.row for cell, *_ in entries))
    columns = sorted(
        {(cell.network, cell.method) for cell, *_ in entries},
        key=lambda c: (NETWORKS.index(c[0]), COLUMNS.index(c[1])),
    )
    size = (max(5.5, 1.9 + 0.95 * len(columns)), 1.6 + 0.5 * len(rows))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    colours = matplotlib.colormaps["YlGnBu"]
    for cell, ours, paper, seeds, complete in entries:
        x, y = columns.index((cell.network, cell.method)), rows.index(cell.row)
        shade = 0.0 if ours is None else float(np.clip(ours, 0, 1))
        face = "white" if ours is None else colours(0.85 * shade)
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", lw=2))
        if not complete:
            corner = [(x + 0.8, y + 0.02), (x + 0.985, y + 0.02), (x + 0.985, y + 0.37)]
            axis.add_patch(Polygon(corner, facecolor="#d55e00", lw=0))
        ink = "white" if shade > 0.6 else "black"
        large = "…" if ours is None else f"{ours:.2f}"
        small = " · ".join(
            part
            for part in (
                "" if paper is None else f"paper {paper:.2f}",
                "" if complete else seeds,
            )
            if part
        )
        middle = 0.5 if not small else 0.36
        axis.text(x + 0.5, y + middle, large, ha="center", va="center", color=ink, fontsize=11)
        axis.text(x + 0.5, y + 0.74, small, ha="center", va="center", color=ink, fontsize=6.5)
    axis.set_xlim(0, len(columns))
    axis.set_ylim(len(rows), 0)
    axis.set_xticks(np.arange(len(columns)) + 0.5, [method for _, method in columns])
    axis.set_yticks(np.arange(len(rows)) + 0.5, [f"{task} {agents}" for task, agents in rows])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for network in dict.fromkeys(network for network, _ in columns):
        places = [index for index, (name, _) in enumerate(columns) if name == network]
        axis.annotate(
            network,
            (float(np.mean(places)) + 0.5, 0),
            xytext=(0, 26),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
        if places[0] > 0:
            axis.axvline(places[0], color="black", lw=1)
    for index, (above, below) in enumerate(itertools.pairwise(rows), 1):
        if above[0] != below[0]:
            axis.axhline(index, color="black", lw=1)
    axis.set_xlabel(
        "normalised return against the true maximum, interquartile mean over seeds\n"
        "(the paper's figure: over the best of its row). Orange corner: seeds are missing",
        fontsize=8,
    )
    _save(figure, out / "table1.png")


def draw_curves(
    curves: Mapping[Cell, Sequence[Curve]],
    incomplete: set[Cell],
    against: Literal["steps", "cpu"],
    file: Path,
) -> None:
    """Draw evaluation returns, one panel per task and number of agents.

    Args:
        curves: of the finished seeds of each cell.
        incomplete: cells that more seeds will join.
        against: env steps, or CPU-seconds of training.
        file: the PNG.
    """
    tasks = list(dict.fromkeys(cell.task for cell in curves))
    counts = sorted({cell.agents for cell in curves})
    size = (3.4 * max(len(counts), 2), 2.5 * len(tasks) + 0.9)
    figure, axes = plt.subplots(
        len(tasks), len(counts), figsize=size, layout="constrained", squeeze=False
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, agents in zip(row, counts, strict=True):
            mine = {cell: runs for cell, runs in curves.items() if cell.row == (task, agents)}
            if not mine:
                axis.set_axis_off()
                continue
            _panel(axis, mine, incomplete, against)
            axis.set_title(f"{task}, {agents} agent{'s' if agents > 1 else ''}", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("normalised return")
    label = "env steps" if against == "steps" else "CPU-seconds of training"
    for axis in axes[-1]:
        axis.set_xlabel(label)
    _legend(figure, curves, incomplete)
    _save(figure, file)


def _panel(
    axis: Axes,
    curves: Mapping[Cell, Sequence[Curve]],
    incomplete: set[Cell],
    against: Literal["steps", "cpu"],
) -> None:
    drawn = {cell: [run for run in runs if len(run.value) > 1] for cell, runs in curves.items()}
    drawn = {cell: runs for cell, runs in drawn.items() if runs}
    seconds = [run.cpu_seconds for runs in drawn.values() for run in runs]
    log = against == "cpu" and bool(drawn)
    log = log and bool(max(x[-1] for x in seconds) > 10 * min(x[1] for x in seconds))
    lowest = -0.03
    for cell, runs in drawn.items():
        x, values = _common(runs, against, log)
        style: dict[str, Any] = {
            "color": _COLOURS[cell.method],
            "zorder": 2 + COLUMNS.index(cell.method) / 10,
        }
        mean = values.mean(axis=0)
        axis.plot(x, mean, _LINES[cell.network], lw=1.6, **style)
        axis.fill_between(x, values.min(axis=0), values.max(axis=0), alpha=0.1, lw=0, **style)
        if cell in incomplete:
            axis.plot(x[-1:], mean[-1:], "o", mfc="white", ms=5, **style)
        lowest = min(lowest, float(values.min()) - 0.03)
    axis.axhline(1.0, color="grey", lw=0.8, ls=(0, (1, 2)))
    axis.set_ylim(max(lowest, -1.0), 1.05)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _common(
    runs: Sequence[Curve], against: Literal["steps", "cpu"], log: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places all runs have been to, and (run, place) their values there.

    A run that stopped because it was good enough keeps its value; others end the common range.
    """
    series = [run.env_steps if against == "steps" else run.cpu_seconds for run in runs]
    ends = [x[-1] for x, run in zip(series, runs, strict=True) if not run.held]
    end = min(ends) if ends else max(x[-1] for x in series)
    places = np.linspace(0.0, end, 200)
    if log:
        places = np.geomspace(max(min(x[1] for x in series), 1e-3), max(end, 2e-3), 200)
    return places, np.array(
        [np.interp(places, x, run.value) for x, run in zip(series, runs, strict=True)]
    )


def _legend(figure: Figure, curves: Mapping[Cell, Sequence[Curve]], incomplete: set[Cell]) -> None:
    methods = sorted({cell.method for cell in curves}, key=COLUMNS.index)
    networks = sorted({cell.network for cell in curves}, key=NETWORKS.index)
    handles = [Line2D([], [], color=_COLOURS[method], lw=2, label=method) for method in methods]
    handles += [
        Line2D([], [], color="black", ls=_LINES[network], lw=1.6, label=network)
        for network in networks
    ]
    if incomplete:
        handles.append(
            Line2D([], [], color="black", marker="o", mfc="white", ls="", label="seeds missing")
        )
    columns = max(1, round(figure.get_figwidth() / 1.2))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _save(figure: Figure, file: Path) -> None:
    """Write a picture whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    figure.savefig(partial, dpi=130, format="png")
    plt.close(figure)
    partial.replace(file)
