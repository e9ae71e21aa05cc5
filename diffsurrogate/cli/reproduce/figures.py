"""Pictures of the grid: the table in colours, and learning curves."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
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

from diffsurrogate.cli.figures import save_figure
from diffsurrogate.cli.reproduce.table import METHODS, NETWORKS, Cell, PaperTable

_PALETTE = (
    *("#e69f00", "#cc79a7", "#a6611a", "#8c8c8c", "#d55e00", "#7b3294", "#66a61e"),
    *("#56b4e9", "#009e73", "#0a3d91"),
)
_LINES: tuple[Any, ...] = ("-", ":", "--", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Evaluations of one run on the way; arrays of one length."""

    env_steps: NDArray[np.float64]
    cpu_seconds: NDArray[np.float64]
    """Of training, when the evaluation began."""
    value: NDArray[np.float64]
    """Return, normalised where the table does so."""
    held: bool
    """The run stopped because it was good enough: it keeps its last value."""


def draw_table(
    table: PaperTable,
    entries: Sequence[tuple[Cell, float | None, float | None, str, bool]],
    out: Path,
) -> None:
    """Draw `<table>.png`: a coloured cell for each entry.

    An entry is a cell, our return, the paper's figure, finished seeds, and whether all are.
    """
    rows = list(dict.fromkeys(cell.row for cell, *_ in entries))
    titles = list(dict.fromkeys(cell.row_title for cell, *_ in entries))
    columns = sorted({cell.column for cell, *_ in entries}, key=table.place_of)
    shades = _shades(table, entries)
    size = (max(5.5, 1.9 + 0.95 * len(columns)), 1.6 + 0.5 * len(rows))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    colours = matplotlib.colormaps["YlGnBu"]
    for cell, ours, paper, seeds, complete in entries:
        x, y, shade = columns.index(cell.column), rows.index(cell.row), shades[cell]
        face = "white" if ours is None else colours(0.85 * shade)
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", lw=2))
        if not complete:
            corner = [(x + 0.8, y + 0.02), (x + 0.985, y + 0.02), (x + 0.985, y + 0.37)]
            axis.add_patch(Polygon(corner, facecolor="#d55e00", lw=0))
        ink = "white" if shade > 0.6 else "black"
        large = "…" if ours is None else f"{ours:.2f}" if abs(ours) < 100 else f"{ours:.0f}"
        notes = [] if paper is None else [f"paper {paper:.2f}"]
        small = " · ".join(notes if complete else [*notes, seeds])
        middle = 0.5 if not small else 0.36
        axis.text(x + 0.5, y + middle, large, ha="center", va="center", color=ink, fontsize=11)
        axis.text(x + 0.5, y + 0.74, small, ha="center", va="center", color=ink, fontsize=6.5)
    axis.set_xlim(0, len(columns))
    axis.set_ylim(len(rows), 0)
    names = [f"{method}\n{variant}".rstrip() for _, method, variant in columns]
    axis.set_xticks(np.arange(len(columns)) + 0.5, names, fontsize=8 if table.variants else None)
    axis.set_yticks(np.arange(len(rows)) + 0.5, titles)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for network in dict.fromkeys(network for network, *_ in columns):
        places = [index for index, (name, *_) in enumerate(columns) if name == network]
        axis.annotate(
            network,
            (float(np.mean(places)) + 0.5, 0),
            xytext=(0, 38 if table.variants else 26),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
        if places[0] > 0:
            axis.axvline(places[0], color="black", lw=1)
    for index, (above, below) in enumerate(itertools.pairwise(rows), 1):
        if above[0] != below[0]:
            axis.axhline(index, color="black", lw=1)
    what = "return of an agent, interquartile mean over seeds; shades go by row"
    if table.over_maximum:
        what = "normalised return against the true maximum, interquartile mean over seeds"
        if any(paper is not None for _, _, paper, *_ in entries):
            what += "\n(the paper's figure: over the best of its row)"
    axis.set_xlabel(f"{what}. Orange corner: seeds are missing", fontsize=8)
    save_figure(figure, out / f"{table.name}.png", dpi=130)


def _shades(
    table: PaperTable, entries: Sequence[tuple[Cell, float | None, float | None, str, bool]]
) -> dict[Cell, float]:
    """Return how dark each cell is, from 0 to 1."""
    values = {cell: ours for cell, ours, *_ in entries if ours is not None}
    shades = {cell: 0.0 for cell, *_ in entries}
    for cell, value in values.items():
        row = [other for at, other in values.items() if at.row == cell.row]
        low, high = (0.0, 1.0) if table.over_maximum else (min(row), max(row))
        shades[cell] = float(np.clip((value - low) / max(high - low, 1e-9), 0, 1))
    return shades


def draw_curves(
    table: PaperTable,
    curves: Mapping[Cell, Sequence[Curve]],
    incomplete: set[Cell],
    against: Literal["steps", "cpu"],
    file: Path,
) -> None:
    """Draw the finished seeds' returns, one panel per task and number of agents."""
    rows = list(dict.fromkeys(cell.row for cell in curves))
    tasks = list(dict.fromkeys(task for task, _ in rows))
    styles = _Styles(table, curves)
    places = {row: [other for other in rows if other[0] == row[0]].index(row) for row in rows}
    across = 1 + max(places.values(), default=0)
    size = (3.4 * max(across, 2), 2.5 * max(len(tasks), 1) + 0.9)
    figure, axes = plt.subplots(
        max(len(tasks), 1), across, figsize=size, layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row in rows:
        axis = axes[tasks.index(row[0]), places[row]]
        axis.set_axis_on()
        mine = {cell: runs for cell, runs in curves.items() if cell.row == row}
        _panel(axis, table, mine, styles, incomplete, against)
        task, agents = row
        count = "" if agents is None else f", {agents} agent{'s' if agents > 1 else ''}"
        axis.set_title(f"{task}{count}", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("normalised return" if table.over_maximum else "return of an agent")
    label = "env steps" if against == "steps" else "CPU-seconds of training"
    for axis in axes[-1]:
        axis.set_xlabel(label)
    _legend(figure, styles, missing=bool(incomplete))
    save_figure(figure, file, dpi=130)


class _Styles:
    """Colours and lines of the cells in a picture, and its legend.

    Colours stand for methods or networks, as the table says, and lines for the other, or for
    variants; where only these differ, colours stand for them.
    """

    def __init__(self, table: PaperTable, cells: Iterable[Cell]) -> None:
        self.table = table
        looks = [
            self._names(cell) for cell in sorted(cells, key=lambda c: table.place_of(c.column))
        ]
        known: list[str] = [*METHODS, *NETWORKS]
        self.firsts = sorted({first for first, _ in looks}, key=known.index)
        self.seconds = list(dict.fromkeys(second for _, second in looks))
        self.by_second = len(self.firsts) == 1 and len(self.seconds) > 1

    def of(self, cell: Cell) -> dict[str, Any]:
        """Return a cell's colour and line."""
        first, second = self._names(cell)
        if self.by_second:
            return self._own(second)
        return {"color": _colour(first), "ls": _dashes(self.table, second)}

    def handles(self) -> list[Line2D]:
        """Return what the legend has."""
        if self.by_second:
            return [Line2D([], [], lw=1.6, label=name, **self._own(name)) for name in self.seconds]
        lines = self.seconds if len(self.seconds) > 1 else []
        return [
            *(Line2D([], [], color=_colour(name), lw=2, label=name) for name in self.firsts),
            *(
                Line2D([], [], color="black", ls=_dashes(self.table, name), lw=1.6, label=name)
                for name in lines
            ),
        ]

    def _own(self, name: str) -> dict[str, Any]:
        rounds, at = divmod(self.seconds.index(name), len(_PALETTE))
        return {"color": _PALETTE[-1 - at], "ls": _LINES[rounds % len(_LINES)]}

    def _names(self, cell: Cell) -> tuple[str, str]:
        """Return the names that a cell's colour and line stand for."""
        networks = self.table.colour_by == "network"
        other = cell.method if networks else cell.network
        named = cell.network if networks else cell.method
        return named, (cell.variant or "as it is") if self.table.variants else other


def _colour(name: str) -> str:
    known: list[str] = [*METHODS] if name in METHODS else [*NETWORKS]
    return _PALETTE[known.index(name) % len(_PALETTE)]


def _dashes(table: PaperTable, name: str) -> Any:
    """Return the line of what a cell's line stands for: solid for what the table has first."""
    first = table.methods if table.colour_by == "network" else NETWORKS
    names = ("as it is", *table.variants) if table.variants else (*first, *METHODS)
    return _LINES[list(dict.fromkeys(names)).index(name) % len(_LINES)]


def _panel(
    axis: Axes,
    table: PaperTable,
    curves: Mapping[Cell, Sequence[Curve]],
    styles: _Styles,
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
        look = styles.of(cell)
        style = {"color": look["color"], "zorder": 2 + METHODS.index(cell.method) / 10}
        mean = values.mean(axis=0)
        axis.plot(x, mean, ls=look["ls"], lw=1.6, **style)
        axis.fill_between(x, values.min(axis=0), values.max(axis=0), alpha=0.1, lw=0, **style)
        if cell in incomplete:
            axis.plot(x[-1:], mean[-1:], "o", mfc="white", ms=5, **style)
        lowest = min(lowest, float(values.min()) - 0.03)
    if table.over_maximum:
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


def _legend(figure: Figure, styles: _Styles, *, missing: bool) -> None:
    handles = styles.handles()
    if missing:
        handles.append(
            Line2D([], [], color="black", marker="o", mfc="white", ls="", label="seeds missing")
        )
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.5 + 0.09 * longest)))  # inches
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
