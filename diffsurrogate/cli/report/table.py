"""The table of a report: what each group of runs came to."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Group(NamedTuple):
    """What runs of a row have in common; they differ in their seeds."""

    env: str
    agents: int
    method: str
    network: str
    settings: tuple[str, ...]
    """What is not as recommended."""


_HEAD = (
    *("env", "agents", "method", "network", "settings", "seeds", "return (IQM, 95 %)"),
    *("reached .9", "CPU-s to .9 (median)", "steps to .9 (median)", "CPU-s in all"),
    "reported at the end of episodes (mean)",
)
_NOTHING = "-"


def table_of(groups: Iterable[tuple[Group, list[dict[str, Any]]]]) -> list[list[str]]:
    """Return the head and a row for each group, without columns that have nothing to say."""
    rows = [row_of(group, summaries) for group, summaries in groups]
    columns = zip(_HEAD, *rows, strict=True)
    said = [column for column in columns if set(column[1:]) != {_NOTHING}]
    return [list(row) for row in zip(*said, strict=True)]


def row_of(group: Group, summaries: list[dict[str, Any]]) -> list[str]:
    """Return the cells of a group's row."""
    known = all(s["normalised_return"] is not None for s in summaries)
    key = "normalised_return" if known else "mean_return"
    mean, low, high = interquartile_mean([s[key] for s in summaries])
    reached = [s["reached_0.9"] for s in summaries if s["reached_0.9"]]
    cpu, steps = ([r[of] for r in reached] for of in ("cpu_seconds", "env_steps"))
    return [
        *(group.env, str(group.agents), group.method, group.network),
        ", ".join(group.settings) or "default",
        ", ".join(str(seed) for seed in sorted(s["seed"] for s in summaries)),
        f"{mean:.3g}" if low is None else f"{mean:.3g} [{low:.3g}, {high:.3g}]",
        f"{len(reached)}/{len(summaries)}" if known else _NOTHING,
        f"{np.median(cpu):.1f}" if reached else _NOTHING,
        f"{np.median(steps):,.0f}" if reached else _NOTHING,
        f"{np.mean([s['cpu_seconds'] for s in summaries]):.1f}",
        _reported(summaries) or _NOTHING,
    ]


def _reported(summaries: list[dict[str, Any]]) -> str:
    """Return the means over seeds of the numbers that envs report in their infos."""
    told: dict[str, list[float]] = {}
    for summary in summaries:
        for name, value in summary.items():
            if name.startswith("info/") and value is not None and np.isfinite(value):
                told.setdefault(name.removeprefix("info/"), []).append(value)
    return ", ".join(f"{name} {np.mean(values):.3g}" for name, values in told.items())


def interquartile_mean(values: list[float]) -> tuple[float, float | None, float | None]:
    """Return the interquartile mean and its 95 % bootstrap interval, None of fewer than 3."""
    mean, low, high = interquartile_means(np.asarray(values, dtype=float)).tolist()
    return (mean, low, high) if len(values) >= 3 else (mean, None, None)


def interquartile_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return interquartile means over runs and the ends of their 95 % bootstrap intervals.

    Whole runs are left out, as by rliable: none of up to 3, the best and the worst one of 4 to 7.

    Args:
        values: (run, *any).

    Returns:
        (3, *any): the mean, the low and the high end; the mean alone, thrice, of fewer than 3 runs.
    """
    from scipy import stats  # the import takes seconds

    mean = stats.trim_mean(values, 0.25)
    if len(values) < 3:
        return np.stack([mean, mean, mean])
    interval = stats.bootstrap(
        (values,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.stack([mean, interval.low, interval.high])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
