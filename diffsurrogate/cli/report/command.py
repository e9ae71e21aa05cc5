"""`diffsurrogate report`: reads runs, and writes what they came to."""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from diffsurrogate.cli.options import briefly, what_differs
from diffsurrogate.cli.report.table import Group, markdown_table, table_of
from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder, write_text

_LARGEST = 4_000_000
"""Bytes of a film that a page may hold."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Sum up all runs below a folder: interquartile means and bootstrap intervals over seeds.

    report.html is one page that opens without a network, with the table, learning curves and films;
    report.pdf has the curves for a paper, report.png and report.md for elsewhere.
    """

    folder: tyro.conf.Positional[Path]
    """Looked through for runs, at any depth."""
    out: Path | None = None
    """Where the files go; None for the folder itself."""


@dataclass
class _Found:
    """The runs of a folder."""

    summaries: dict[Group, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    curves: dict[Group, list[list[dict[str, float]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    films: dict[Group, Path] = field(default_factory=dict)
    """Of the first run of each group that has one."""
    notes: list[str] = field(default_factory=list)
    """About runs that are left out, or their curves."""

    @property
    def common(self) -> tuple[str, ...]:
        """Settings of all groups, if there are several; the table has those that differ."""
        groups = list(self.summaries)
        if len(groups) < 2:
            return ()
        return tuple(one for one in groups[0].settings if all(one in g.settings for g in groups))

    @property
    def table(self) -> list[list[str]]:
        """The head, and a row for each group."""
        nothing = ("as above",) if self.common else ()
        return table_of(
            (group._replace(settings=self.special(group) or nothing), summaries)
            for group, summaries in sorted(self.summaries.items())
        )

    def special(self, group: Group) -> tuple[str, ...]:
        """Return the settings of a group that others have not."""
        return tuple(setting for setting in group.settings if setting not in self.common)


def report(options: ReportOptions) -> int:
    """Write the files, and print the table."""
    runs = [RunFolder(file.parent) for file in sorted(options.folder.rglob("config.json"))]
    if not runs:
        raise UsageError(f"there are no runs in {options.folder}; check the path")
    found = _read(runs, options.folder)
    above = _sweeps(options.folder)
    if found.common:
        above.append(f"Settings of all runs: {', '.join(found.common)}")
    text = "".join(f"{line}\n\n" for line in above)
    table = found.table
    text += markdown_table(table[0], table[1:]) if found.summaries else "No finished run.\n"
    text += "".join(f"\n{note}\n" for note in found.notes)
    out = options.out or options.folder
    write_text(out / "report.md", text)
    _draw(found, table, above, f"Runs in {options.folder}", out)
    print(text)
    print(out / "report.html")
    return 0


def _read(runs: list[RunFolder], folder: Path) -> _Found:
    found = _Found()
    unfinished, unreadable = [], []
    for run in runs:
        name = run.path.name if run.path == folder else str(run.path.relative_to(folder))
        summary = _summary(run)
        if summary is None:
            unfinished.append(name)
            continue
        try:
            settings = what_differs(run.config)
        except (UsageError, KeyError, ValueError, TypeError):
            unreadable.append(name)
            continue
        group = Group(**{name: summary[name] for name in Group._fields[:-1]}, settings=settings)
        found.summaries[group].append(summary)
        try:
            rows = run.metrics()
        except UsageError as error:
            found.notes.append(f"Without its curve: {name}, as {error}")
        else:
            found.curves[group].append([r for r in rows if "evaluation_mean_return" in r])
        film = run.path / "rollout.gif"
        if film.is_file() and film.stat().st_size <= _LARGEST:
            found.films.setdefault(group, film)
    if unfinished:
        found.notes.append(f"Not finished: {', '.join(unfinished)}")
    if unreadable:
        found.notes.append(f"No configuration of ours: {', '.join(unreadable)}")
    return found


def _summary(run: RunFolder) -> dict[str, Any] | None:
    """Return a finished run's summary; None if there is none that can be read."""
    try:
        summary = run.summary()
    except UsageError:
        return None
    needed = {"method", "env", "agents", "network", "normalised_return", "reached_0.9"}
    return summary if summary is not None and needed <= summary.keys() else None


def _sweeps(folder: Path) -> list[str]:
    """Return a line on each sweep in a folder: how many trials it has, and the best."""
    lines = []
    for file in sorted(folder.rglob("trials.csv")):
        with file.open(errors="replace") as text:
            header, *rows = [row for row in csv.reader(text) if row] or [[]]
        if header[:3] != ["trial", "state", "value"]:
            continue  # not of a sweep
        line = f"{file.parent} is a sweep of {len(rows)} trials"
        try:
            line += _best([dict(zip(header, row, strict=True)) for row in rows])
        except ValueError:
            line += f"; which is the best is not told, as {file} is damaged; the sweep mends it"
        lines.append(line)
    return lines


def _best(trials: list[dict[str, str]]) -> str:
    """Return the end of a sentence on the best of some trials; "" if none is complete.

    Raises:
        ValueError: a value is no number.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if not complete:
        return ""
    best = max(complete, key=lambda trial: float(trial["value"]))
    words = [f"{name}={_short(value)}" for name, value in list(best.items())[3:]]
    return f"; the best is trial {best['trial']} with {_short(best['value'])}: {', '.join(words)}"


def _short(text: str) -> str:
    """Return a number as `briefly` does, and other text as it is."""
    return briefly(float(text)) if re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", text) else text


def _draw(found: _Found, table: list[list[str]], above: list[str], title: str, out: Path) -> None:
    """Write the page and the pictures."""
    from diffsurrogate.cli import html_page  # these imports take seconds
    from diffsurrogate.cli.figures import save_figure
    from diffsurrogate.cli.report.curves import draw, envs_of

    envs = envs_of(found.curves)
    parts = [
        html_page.text(
            "Returns of the trained policies in new episodes: interquartile means (IQM) over "
            "seeds, which are plain means of three seeds or fewer, with 95 % bootstrap intervals "
            "of three seeds and more."
        ),
        *(html_page.text(line) for line in above),
        html_page.table(table[0], table[1:]),
        *(html_page.text(note) for note in found.notes),
    ]
    for env in envs:
        curves = draw(found.curves, [env])
        caption = (
            "Evaluations on the way: IQM and its interval, of fewer than three seeds each run and "
            "the mean. A run that has ended keeps its last value."
        )
        parts += [html_page.text(f"{env[0]}, agents: {env[1]}", "h2")]
        parts += [html_page.drawing(curves, caption, wide=True)]
        for group, file in sorted(found.films.items()):
            if (group.env, group.agents) == env:
                told = " ".join([group.method, group.network, *found.special(group)])
                parts += [html_page.film(file, f"{told}: {file.parent.name}")]
    write_text(out / "report.html", html_page.page(title, parts))
    if envs:
        curves = draw(found.curves, envs)
        for name in ("report.png", "report.pdf"):
            save_figure(curves, out / name)
