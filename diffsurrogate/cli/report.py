"""`diffsurrogate report`: one table and one picture of all runs in a folder."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from diffsurrogate.cli.options import what_differs
from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder

Group = tuple[str, str, int, str, str]
"""Method, env, agents, network, and what else is not as recommended."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Sum up all runs below a folder: interquartile means and bootstrap intervals over seeds."""

    folder: tyro.conf.Positional[Path]
    """Looked through for runs, at any depth."""
    out: Path | None = None
    """Where report.md and report.png go; None for the folder itself."""


def report(options: ReportOptions) -> int:
    """Write `report.md` and `report.png`, and print the table."""
    runs = [RunFolder(file.parent) for file in sorted(options.folder.rglob("config.json"))]
    if not runs:
        raise UsageError(f"there are no runs in {options.folder}; check the path")
    groups: dict[Group, list[dict[str, Any]]] = defaultdict(list)
    curves: dict[Group, list[list[dict[str, float]]]] = defaultdict(list)
    unfinished, unreadable = [], []
    for run in runs:
        name = run.path.relative_to(options.folder)
        summary = _summary(run)
        if summary is None:
            unfinished.append(name)
            continue
        try:
            settings = what_differs(run.config)
        except (UsageError, KeyError, ValueError, TypeError):
            unreadable.append(name)
            continue
        group = (*(summary[of] for of in ("method", "env", "agents", "network")), settings)
        groups[group].append(summary)
        curves[group].append([row for row in run.metrics() if "evaluation_mean_return" in row])
    text = markdown_table(_HEAD, [_row(*item) for item in sorted(groups.items())])
    if unfinished:
        text += "\nNot finished: " + ", ".join(map(str, unfinished)) + "\n"
    if unreadable:
        text += "\nNo configuration of ours: " + ", ".join(map(str, unreadable)) + "\n"
    out = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text)
    _picture(curves, out / "report.png")
    print(text)
    return 0


def _summary(run: RunFolder) -> dict[str, Any] | None:
    """Return a finished run's summary; None if there is none that can be read."""
    try:
        summary = run.summary()
    except UsageError:
        return None
    needed = {"method", "env", "agents", "network", "normalised_return", "reached_0.9"}
    return summary if summary is not None and needed <= summary.keys() else None


def interquartile_mean(values: list[float]) -> tuple[float, float | None, float | None]:
    """Return the interquartile mean and its 95 % bootstrap interval, None of fewer than 3."""
    from scipy import stats  # the import takes seconds

    data = np.asarray(values, dtype=float)
    mean = float(stats.trim_mean(data, 0.25))
    if len(data) < 3:
        return mean, None, None
    if np.ptp(data) == 0:
        return mean, mean, mean
    interval = stats.bootstrap(
        (data,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_HEAD = (
    *("method", "env", "agents", "network", "settings", "seeds", "return (IQM, 95 %)"),
    *("reached .9", "CPU-s to .9 (median)", "steps to .9 (median)", "CPU-s in all"),
)


def _row(group: Group, summaries: list[dict[str, Any]]) -> list[str]:
    method, env, agents, network, settings = group
    known = all(s["normalised_return"] is not None for s in summaries)
    key = "normalised_return" if known else "mean_return"
    mean, low, high = interquartile_mean([s[key] for s in summaries])
    reached = [s["reached_0.9"] for s in summaries if s["reached_0.9"]]
    cpu, steps = ([r[of] for r in reached] for of in ("cpu_seconds", "env_steps"))
    return [
        *(method, env, str(agents), network, settings or "default"),
        ", ".join(str(seed) for seed in sorted(s["seed"] for s in summaries)),
        f"{mean:.3g}" if low is None else f"{mean:.3g} [{low:.3g}, {high:.3g}]",
        f"{len(reached)}/{len(summaries)}" if known else "-",
        f"{np.median(cpu):.1f}" if reached else "-",
        f"{np.median(steps):,.0f}" if reached else "-",
        f"{np.mean([s['cpu_seconds'] for s in summaries]):.1f}",
    ]


def _picture(curves: dict[Group, list[list[dict[str, float]]]], file: Path) -> None:
    """Draw each group's runs faintly and their mean over the common range of steps."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    from diffsurrogate.cli.figures import save_figure

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for group, runs in sorted(curves.items()):
        runs = [rows for rows in runs if rows]
        if not runs:
            continue
        known = all("evaluation_normalised_return" in row for rows in runs for row in rows)
        key = "evaluation_normalised_return" if known else "evaluation_mean_return"
        series = [([r["env_steps"] for r in rows], [r[key] for r in rows]) for rows in runs]
        # after its end a run keeps what it had: it stopped because it was done
        grid = np.linspace(0, max(x[-1] for x, _ in series), 50)
        mean = np.mean([np.interp(grid, x, y) for x, y in series], axis=0)
        method, env, agents, network, settings = group
        label = f"{method} {env} n={agents} {network} {settings}".strip()
        (line,) = axis.plot(grid, mean, label=label[:80])
        for x, y in series:
            axis.plot(x, y, color=line.get_color(), alpha=0.25, linewidth=1)
    axis.set_xlabel("env steps")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_ylabel("return")
    axis.grid(alpha=0.3)
    if axis.has_data():
        axis.legend(fontsize="small")
    save_figure(figure, file)
