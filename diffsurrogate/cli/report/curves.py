"""Learning curves of a report: a row of two pictures for each env."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from diffsurrogate.cli.report.table import Group, interquartile_means

matplotlib.use("Agg")
Rows = list[dict[str, float]]
"""The evaluations of a run."""
_AXES = {"env_steps": "env steps", "cpu_seconds": "CPU-seconds of training"}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
_PLACES = 40
"""At which seeds are averaged."""


def envs_of(curves: Mapping[Group, Sequence[Rows]]) -> list[tuple[str, int]]:
    """Return the envs and numbers of agents that have evaluations."""
    return sorted({(group.env, group.agents) for group, runs in curves.items() if any(runs)})


def draw(curves: Mapping[Group, Sequence[Rows]], envs: Sequence[tuple[str, int]]) -> Figure:
    """Draw the curves on each of some envs, whose returns have units of their own."""
    figure, axes = plt.subplots(
        len(envs), 2, figsize=(11, 3.2 * len(envs)), squeeze=False, layout="constrained"
    )
    for row, env in zip(axes, envs, strict=True):
        here = {g: [r for r in runs if r] for g, runs in curves.items() if (g.env, g.agents) == env}
        here = {group: here[group] for group in sorted(here) if here[group]}
        rows = [row for runs in here.values() for rows in runs for row in rows]
        key = "evaluation_normalised_return"
        if not all(key in row for row in rows):
            key = "evaluation_mean_return"
        for axis, over in zip(row, _AXES, strict=True):
            for number, (group, runs) in enumerate(here.items()):
                colour, line = _COLOURS[number % len(_COLOURS)], number // len(_COLOURS)
                style = {"color": colour, "linestyle": ("-", "--", ":")[line % 3]}
                _draw_group(
                    axis, [([r[over] for r in x], [r[key] for r in x]) for x in runs], style
                )
                axis.lines[-1].set_label(_label(group, here))
            axis.set_xlabel(_AXES[over])
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.grid(alpha=0.3)
        row[0].set_ylabel("normalised return" if "normalised" in key else "return")
        row[0].set_title(f"{env[0]}, {env[1]} agent{'s' if env[1] > 1 else ''}", loc="left")
        row[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _draw_group(
    axis: Axes, runs: Sequence[tuple[list[float], list[float]]], style: dict[str, Any]
) -> None:
    """Draw the interquartile mean of a group, its interval if there are 3 runs, or the runs."""
    # after its end a run keeps what it had: it stopped because it was done
    grid = np.linspace(0, max(x[-1] for x, _ in runs), _PLACES)
    values = np.array([np.interp(grid, x, y) for x, y in runs])
    if len(runs) < 3:
        for x, y in runs:
            axis.plot(x, y, alpha=0.3, linewidth=1, **style)
        axis.plot(grid, values.mean(0), **style)
        return
    mean, low, high = interquartile_means(values)
    axis.fill_between(grid, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axis.plot(grid, mean, **style)


def _label(group: Group, among: Iterable[Group]) -> str:
    """Return what tells a group from the others on its env."""
    groups = list(among)
    words = [group.method]
    if len({g.network for g in groups}) > 1:
        words.append(group.network)
    common = set.intersection(*(set(g.settings) for g in groups))
    words += [setting for setting in group.settings if setting not in common]
    return " ".join(words)
