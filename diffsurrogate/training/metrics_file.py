"""The rows of `metrics.csv`, and a copy of them that mends it."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import writing

Row = dict[str, float]
"""One update's numbers by name, "update" first."""


class MetricsFile:
    """A table with a row per update, to which columns may be added, written twice.

    The second file is for `rewind`: a row that one of them has lost is taken from the other.
    """

    def __init__(self, file: Path, copy: Path) -> None:
        """Set the paths; nothing is written yet."""
        self.file = file
        self.copy = copy

    def append(self, row: Row) -> None:
        """Add an update's row to both files."""
        for file in (self.copy, self.file):
            file.parent.mkdir(exist_ok=True)
            header = _header(file)
            if not set(row) <= set(header):
                header = [*header, *(name for name in row if name not in header)]
                _write(file, _read(file)[0], header)
            with file.open("a", newline="") as stream:
                csv.DictWriter(stream, header).writerow(row)

    def rows(self) -> list[Row]:
        """Return the rows of the first file, without empty cells and an incomplete last row.

        Raises:
            UsageError: a line is damaged.
        """
        rows, damaged = _read(self.file)
        if damaged:
            raise UsageError(
                f"{self.file} is damaged in line {damaged[0]}; train --resume mends it"
            )
        return rows

    def sync(self) -> None:
        """Have the copy's rows on the disk, where they outlive a power failure."""
        if self.copy.is_file():
            with self.copy.open("r+b") as stream:
                os.fsync(stream)

    def rewind(self, update: int) -> list[int]:
        """Remove rows after `update`, and mend both files.

        Returns:
            updates up to `update` whose rows neither file has.
        """
        kept: dict[int, Row] = {}
        for file in (self.file, self.copy):
            kept |= {int(row["update"]): row for row in _read(file)[0] if row["update"] <= update}
        rows = [kept[number] for number in sorted(kept)]
        for file in (self.copy, self.file):
            file.parent.mkdir(exist_ok=True)
            _write(file, rows, _names(rows))
        return [number for number in range(update + 1) if number not in kept]


def _header(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with file.open(newline="", errors="replace") as stream:
        return next(csv.reader(stream), [])


def _read(file: Path) -> tuple[list[Row], list[int]]:
    """Return the rows without empty cells, and the numbers of lines that are none.

    An incomplete last line counts as neither.
    """
    if not file.is_file():
        return [], []
    text = file.read_text(errors="replace")
    lines = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    header = next(lines, [])
    rows, damaged = [], []
    for number, cells in enumerate(lines, 2):
        try:
            named = zip(header, cells, strict=True)
            row = {name: float(cell) for name, cell in named if cell}
            if not row["update"].is_integer():
                raise ValueError
            rows.append(row)
        except (KeyError, ValueError):
            damaged.append(number)
    return rows, damaged


def _write(file: Path, rows: Iterable[Row], header: list[str]) -> None:
    with writing(file) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row)) or ["update"]
