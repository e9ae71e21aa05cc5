"""`diffsurrogate reproduce`: a paper's table as a grid of trainings, whole or in part."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from diffsurrogate.cli.reproduce.bppo import BPTA
from diffsurrogate.cli.reproduce.grid import Run, count, states_of, tail, train_all
from diffsurrogate.cli.reproduce.hypermarl import HYPERMARL
from diffsurrogate.cli.reproduce.pool import RayPool
from diffsurrogate.cli.reproduce.shac import SHAC_CURVES
from diffsurrogate.cli.reproduce.shacpp import TABLE1
from diffsurrogate.cli.reproduce.table import Cell, PaperTable
from diffsurrogate.config import require_range
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Method, Network
from diffsurrogate.training.lock import FolderLock

TABLES: dict[str, PaperTable] = {
    table.name: table for table in (TABLE1, BPTA, HYPERMARL, SHAC_CURVES)
}
_OURS = ("out", "resume", "agents", "network", "preset", "seed", "total-steps", "cpu-limit")
_RESERVED = {f"--{name}" for name in (*_OURS, "stop-at", "no-resume")}


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Train the cells of a paper's table, and set ours beside the paper's figures.

    Runs are trained side by side by Ray, an extra: pip install "diffsurrogate[ray]". Repeat the
    same command after a stop or a kill: finished runs are skipped, the others go on.
    Options after -- are handed to every training, such as -- --num-envs 64 --film-steps 0.
    """

    table: tyro.conf.Positional[Literal["table1", "bpta", "hypermarl", "shac"]]
    """table1: of SHAC++. bpta: BPPO's matrix games and MaMuJoCo. hypermarl: Dispersion, Navigation
    and SMAX. shac: cart-pole and robots, with the simulator's own gradients."""
    tasks: tuple[str, ...] | None = None
    """Rows of the table; None for all."""
    agents: tuple[int, ...] | None = None
    """Numbers of agents, where a task lets one choose; None for the paper's."""
    methods: tuple[Method, ...] | None = None
    """Columns of the table; None for the usual ones."""
    networks: tuple[Network, ...] | None = None
    """Of the policy; None for the usual ones."""
    variants: tuple[str, ...] | None = None
    """Variants of the usual settings, where the table has such columns; None for all."""
    seeds: tuple[int, ...] | None = None
    """One run of each cell per seed; None for the table's own."""
    preset: Literal["default", "paper"] = "default"
    """default: what measured best here. paper: the paper's hyperparameters."""
    total_steps: int | None = None
    """Env steps of a run; None for what the preset has."""
    cpu_limit: float | None = None
    """CPU-seconds of training after which a run stops."""
    stop_at: float | None = None
    """Normalised return at which a run stops; None trains on to the end of the budget."""
    jobs: int | None = None
    """Runs at a time, one thread each; None for as many as there are cores."""
    ray_address: str | None = None
    """HOST:PORT of a running Ray cluster whose nodes share the file system; None for this machine
    alone."""
    out: Path | None = None
    """Folder of the grid: the table and its pictures, and below <preset>/ the runs and their logs.
    None for runs/<table>."""
    ceilings: Path | None = None
    """JSON of what scripted policies earn (examples/results/ceilings.json), to compare with."""
    dry_run: bool = False
    """List the runs and the state each is in, and do nothing."""
    report_only: bool = False
    """Write the table of what there is, and train nothing."""
    extra: tyro.conf.Suppress[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is started."""
        for name in ("tasks", "agents", "methods", "networks", "seeds"):
            if getattr(self, name) == ():
                raise UsageError(f"--{name} is empty; give at least one, or leave it out")
        if min(self.agents or (1,)) < 1 or min(self.seeds or (0,)) < 0:
            raise UsageError(
                f"agents are {self.agents} and seeds {self.seeds}; agents must be at least 1 and "
                "seeds at least 0"
            )
        if self.jobs is not None:
            require_range(self, "jobs", low=1.0)
        if self.report_only and not self.folder.is_dir():
            raise UsageError(f"there is no grid in {self.folder}; give the --out it was trained in")
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; give another --out")
        for option in self.extra:
            name = option.split("=")[0].replace("_", "-")
            if name in _RESERVED:
                raise UsageError(
                    f"{name} after -- is what reproduce decides for each run; give "
                    f"{'--out' if 'resume' in name else name.replace('--no-', '--')} before --, "
                    "or leave it out"
                )

    @property
    def folder(self) -> Path:
        """Of the grid."""
        return self.out if self.out is not None else Path("runs") / self.table


def reproduce(options: ReproduceOptions) -> int:
    """Run the grid and write its table; return the exit status, 1 if a run failed."""
    table = TABLES[options.table]
    cells, left_out = table.cells(
        options.tasks,
        options.agents,
        options.methods,
        options.networks,
        options.variants,
        options.preset,
    )
    runs = _runs(table, options, cells)
    for reason, those in left_out.items():
        print(f"left out, as {reason}: {', '.join(cell.name for cell in those)}")
    if not runs:
        raise UsageError("nothing is left to train; ask for other methods, networks or agents")
    if options.report_only:
        _report(table, options, cells, left_out)
        return 0
    if options.dry_run:
        states = states_of(runs)
        for run in runs:
            print(f"{states[run]:>12}  {run.path}")
        print(f"{len(runs)} runs, {count(states)}")
        return 0
    pool = RayPool(options.jobs, options.ray_address)
    if not all(run.finished for run in runs):
        pool.ray()  # before there is a folder
    with closing(FolderLock(options.folder, "reproduce")):
        states = states_of(runs)
        print(f"{len(runs)} runs in {options.folder / options.preset}, {count(states)}")
        finished, failed = train_all(runs, states, pool)
    if pool.signal:
        print(f"stopped with {finished} of {len(runs)} runs finished; go on with:")
        print(f"  {_again(options)}")
        return 128 + pool.signal
    try:
        _report(table, options, cells, left_out)
    finally:  # the disk may be full for the table as well
        for run, why in failed.items():
            print(f"\nfailed ({why}): {run.title}, whose log {run.log} ends:")
            print(tail(run.log))
        if failed:
            print(f"\n{len(failed)} of {len(runs)} runs failed; try them again with:")
            print(f"  {_again(options)}")
    return 1 if failed else 0


def _runs(table: PaperTable, options: ReproduceOptions, cells: Sequence[Cell]) -> list[Run]:
    """Return all runs, one seed after another, so that every cell soon has one."""
    given = ["--stop-at", str(options.stop_at)]
    for name in ("total_steps", "cpu_limit"):
        if getattr(options, name) is not None:
            given += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return [
        Run(
            cell=cell,
            seed=seed,
            path=options.folder / options.preset / f"{cell.name}-{seed}",
            arguments=(*table.arguments(cell, options.preset), *given, *options.extra),
        )
        for seed in dict.fromkeys(options.seeds or table.seeds)
        for cell in cells
    ]


def _report(
    table: PaperTable,
    options: ReproduceOptions,
    cells: Sequence[Cell],
    left_out: Mapping[str, Sequence[Cell]],
) -> None:
    from diffsurrogate.cli.reproduce.report import write_table  # the import takes seconds

    seeds, folder = tuple(dict.fromkeys(options.seeds or table.seeds)), options.folder
    others = [cell for those in left_out.values() for cell in those]
    text = write_table(table, folder, options.preset, cells, seeds, options.ceilings, others)
    more = folder / f"{table.name}.md"
    print(f"\n{text.split('## Cell')[0]}{more} has more, pictures beside it")


def _again(options: ReproduceOptions) -> str:
    """Return the command that goes on."""
    default = ReproduceOptions(table=options.table)
    words = ["diffsurrogate", "reproduce", options.table]
    for name, value in asdict(options).items():
        if name in ("table", "extra") or value == getattr(default, name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += map(str, value) if isinstance(value, tuple) else [str(value)]
    if options.extra:
        words += ["--", *options.extra]
    return shlex.join(words)
