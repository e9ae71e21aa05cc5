"""What a paper's table is made of: its cells, and which of them make sense."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Choice, Method, Network, Preset

METHODS: tuple[Method, ...] = tuple(
    sorted(get_args(Method), key=lambda method: method.startswith("shac"))
)
"""From left to right: what needs no gradients first."""
NETWORKS: tuple[Network, ...] = get_args(Network)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row, or one for each number of agents."""

    env: str
    """Env id."""
    options: Callable[["Cell"], tuple[str, ...]] = lambda cell: ()
    """What else `train` is told for a cell of this task."""
    agents: tuple[int, ...] = ()
    """Numbers of agents in the paper; none where the env has its own."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table: what is trained, whatever the seed."""

    task: str
    agents: int | None
    """None where the env has its own."""
    method: Method
    network: Network
    variant: str = ""
    """Name of what is done differently; empty for the method's own way."""

    @property
    def name(self) -> str:
        """Its part of a run folder's name."""
        parts = [self.task, self.agents, self.method, self.network, self.variant or None]
        return "-".join(str(part) for part in parts if part is not None)

    @property
    def row(self) -> tuple[str, int | None]:
        """The row of the table it is in."""
        return (self.task, self.agents)

    @property
    def row_title(self) -> str:
        """Its row, for people."""
        return self.task if self.agents is None else f"{self.task} {self.agents}"

    @property
    def column(self) -> tuple[Network, Method, str]:
        """The column of the table it is in."""
        return (self.network, self.method, self.variant)

    @property
    def column_title(self) -> str:
        """Its column within those of its network, for people."""
        return f"{self.method} {self.variant}".rstrip()


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or figure of a paper as a grid of trainings."""

    name: str
    """Of the command, the folder and the files."""
    title: str
    citation: str
    tasks: Mapping[str, Task]
    methods: tuple[Method, ...]
    """Columns, unless others are asked for."""
    networks: tuple[Network, ...]
    seeds: tuple[int, ...]
    variants: Mapping[str, Mapping[Method, tuple[str, ...]]] = field(default_factory=dict)
    """By name, further options of `train`, for each method that takes them."""
    over_maximum: bool = True
    """Returns are over the true maximum, which all its envs know; else they are of one agent."""
    colour_by: Literal["method", "network"] = "method"
    """What colours tell apart in pictures; lines tell the other, or variants if there are any."""
    published: Callable[[Cell], float | None] = lambda cell: None
    """The paper's figure, if it gives one."""
    why_left_out: Callable[[Cell, Preset], str | None] = lambda cell, preset: None
    """Why a cell makes no sense; None if it does."""
    presets: Mapping[Method, Preset] = field(default_factory=dict)
    """Of methods that do not take the grid's; a variant may name another."""

    def arguments(self, cell: Cell, preset: Preset) -> tuple[str, ...]:
        """Return what follows `diffsurrogate train`, but for seed, budget and folder.

        Args:
            cell: what is trained.
            preset: of the grid.
        """
        task = self.tasks[cell.task]
        agents = () if cell.agents is None else ("--agents", str(cell.agents))
        other = self.variants[cell.variant][cell.method] if cell.variant else ()
        settings = ("--network", cell.network, "--preset", self.presets.get(cell.method, preset))
        return (cell.method, task.env, *agents, *settings, *task.options(cell), *other)

    def cells(
        self,
        tasks: tuple[str, ...] | None,
        agents: tuple[int, ...] | None,
        methods: tuple[Method, ...] | None,
        networks: tuple[Network, ...] | None,
        variants: tuple[str, ...] | None,
        preset: Preset,
    ) -> tuple[list[Cell], dict[str, list[Cell]]]:
        """Return the cells asked for, and by reason those that make no sense.

        None asks for all, or for what the paper has.

        Raises:
            UsageError: there is no such task or variant.
        """
        self._refuse_unknown("task", tasks, self.tasks)
        self._refuse_unknown("variant", variants, self.variants)
        ways = ("", *self.variants) if variants is None else ("", *variants)
        cells, left_out = [], dict[str, list[Cell]]()
        for task in dict.fromkeys(tasks or self.tasks):
            own = self.tasks[task].agents
            counts: list[int | None] = list(dict.fromkeys(agents or own)) if own else [None]
            asked = [
                Cell(task=task, agents=count, method=method, network=network, variant=way)
                for count in counts
                for network in networks or self.networks
                for method in methods or self.methods
                for way in ways
                if not way or method in self.variants[way]
            ]
            for cell in sorted(set(asked), key=self.place):
                reason = self.why_not(cell, preset)
                if reason is None:
                    cells.append(cell)
                else:
                    left_out.setdefault(reason, []).append(cell)
        return cells, left_out

    def why_not(self, cell: Cell, preset: Preset) -> str | None:
        """Return why a cell cannot be trained or makes no sense; None if it can and does."""
        return self._impossible(cell) or self.why_left_out(cell, preset)

    def place(self, cell: Cell) -> tuple[int, ...]:
        """Sorts cells as the table reads."""
        return (list(self.tasks).index(cell.task), cell.agents or 0, *self.place_of(cell.column))

    def place_of(self, column: tuple[Network, Method, str]) -> tuple[int, ...]:
        """Sorts columns as the table reads."""
        network, method, variant = column
        ways = ("", *self.variants)
        return (NETWORKS.index(network), METHODS.index(method), ways.index(variant))

    def cell_of(self, folder: str) -> tuple[Cell, int]:
        """Return the cell and the seed that a run folder is named after.

        Raises:
            UsageError: it is none of this table.
        """
        match = self._folder.fullmatch(folder)
        if match is None:
            raise UsageError(f"{folder} is not named like a run of {self.name}")
        found: dict[str, Any] = match.groupdict()
        agents, seed = found.pop("agents"), int(found.pop("seed"))
        found["variant"] = found["variant"] or ""
        return Cell(agents=None if agents is None else int(agents), **found), seed

    @cached_property
    def _folder(self) -> re.Pattern[str]:
        def one_of(names: Mapping[str, object] | tuple[str, ...]) -> str:
            return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))

        variants = one_of(self.variants) or "(?!)"
        return re.compile(
            rf"(?P<task>{one_of(self.tasks)})(?:-(?P<agents>\d+))?-(?P<method>{one_of(METHODS)})"
            rf"-(?P<network>{one_of(NETWORKS)})(?:-(?P<variant>{variants}))?-(?P<seed>\d+)"
        )

    def _impossible(self, cell: Cell) -> str | None:
        """Return why `train` would refuse a cell; None if it would not."""
        env, agents = self.tasks[cell.task].env, cell.agents
        try:
            Choice(method=cell.method, env=env, network=cell.network, agents=agents)
        except UsageError as error:
            return str(error).split(";")[0]
        return None

    def _refuse_unknown(
        self, kind: str, asked: tuple[str, ...] | None, known: Mapping[str, object]
    ) -> None:
        unknown = [name for name in asked or () if name not in known]
        if unknown:
            raise UsageError(
                f"{self.name} has no {kind} {', '.join(unknown)}; known: {', '.join(known) or '-'}"
            )
