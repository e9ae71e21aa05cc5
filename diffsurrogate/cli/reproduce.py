"""`diffsurrogate reproduce`: the paper's Table 1 as a grid of trainings, whole or in part."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

from diffsurrogate.cli.children import Children, Job, locked
from diffsurrogate.cli.options import NOT_LEARNED_BY, Method, Network, Preset, TrainOptions
from diffsurrogate.cli.paper_table import COLUMNS, NETWORKS, TASKS, Cell, Task, why_left_out
from diffsurrogate.cli.presets import parse_train, recommended
from diffsurrogate.cli.table_report import write_table
from diffsurrogate.configuration import differences, require_range
from diffsurrogate.errors import UsageError
from diffsurrogate.run import RunFolder

_OURS = ("out", "resume", "agents", "network", "preset", "seed", "total-steps", "cpu-limit")
_RESERVED = {f"--{name}" for name in (*_OURS, "stop-at", "no-resume")}
_BUDGET = ("total_steps", "time_limit", "cpu_limit", "stop_at")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Train the cells of the paper's Table 1, and set ours beside the paper's figures.

    Repeat the same command after a stop or a kill: finished runs are skipped, the others go on.
    Options after -- are handed to every training, such as -- --num-envs 64 --film-steps 0.
    """

    table: tyro.conf.Positional[Literal["table1"]]
    """The only table there is."""
    tasks: tuple[Task, ...] = TASKS
    """Rows of the table."""
    agents: tuple[int, ...] = (1, 3, 5)
    """Numbers of agents; any will do."""
    methods: tuple[Method, ...] = ("ppo", "mappo", "shac", "shac+", "shac++")
    """Columns of the table."""
    networks: tuple[Network, ...] = ("mlp", "transformer")
    """Of the policy."""
    seeds: tuple[int, ...] = (42, 43, 44)
    """One run of each cell per seed; the defaults are the paper's."""
    preset: Preset = "default"
    """default: what measured best here. paper: the paper's hyperparameters."""
    total_steps: int | None = None
    """Env steps of a run; None for what the preset has."""
    cpu_limit: float | None = None
    """CPU-seconds of training after which a run stops."""
    stop_at: float | None = None
    """Normalised return at which a run stops; None trains on to the end of the budget."""
    jobs: int | None = None
    """Runs at a time, one thread each; None for as many as there are cores."""
    out: Path = Path("runs/table1")
    """Folder of the grid: table1.md and its pictures, and below <preset>/ the runs and their
    logs."""
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
            if not getattr(self, name):
                raise UsageError(f"--{name} is empty; give at least one, or leave it out")
        if min(self.agents) < 1 or min(self.seeds) < 0:
            raise UsageError(
                f"agents are {self.agents} and seeds {self.seeds}; agents must be at least 1 and "
                "seeds at least 0"
            )
        if self.jobs is not None:
            require_range(self, "jobs", low=1.0)
        for option in self.extra:
            name = option.split("=")[0].replace("_", "-")
            if name in _RESERVED:
                raise UsageError(
                    f"{name} after -- is what reproduce decides for each run; give "
                    f"{'--out' if 'resume' in name else name.replace('--no-', '--')} before --, "
                    "or leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One cell with one seed."""

    cell: Cell
    seed: int
    path: Path
    budget: tuple[str, ...]

    @property
    def title(self) -> str:
        cell = self.cell
        return f"{cell.method} {cell.env} n={cell.agents} {cell.network} seed {self.seed}"

    def arguments(self, options: ReproduceOptions) -> tuple[str, ...]:
        """Return what follows `diffsurrogate train` to start it."""
        cell = self.cell
        return (
            *(cell.method, cell.env, "--agents", str(cell.agents), "--network", cell.network),
            *("--preset", options.preset, "--seed", str(self.seed), "--out", str(self.path)),
            *self.budget,
            *options.extra,
        )


def split_extra(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return what stands before the first `--` and what stands after it."""
    before = list(arguments)
    if "--" not in before:
        return before, ()
    at = before.index("--")
    return before[:at], tuple(before[at + 1 :])


def reproduce(options: ReproduceOptions) -> int:
    """Run the grid and write its table; return the exit status, 1 if a run failed."""
    cells, left_out = _cells(options)
    runs = _runs(options, cells)
    notes = [f"left out, as {reason}: {', '.join(names)}" for reason, names in left_out.items()]
    print("".join(f"{note}\n" for note in notes), end="")
    if not runs:
        raise UsageError("nothing is left to train; ask for other methods, networks or agents")
    if options.report_only:
        _report(options, cells, notes)
        return 0
    if options.dry_run:
        states = _states(options, runs)
        for run in runs:
            print(f"{states[run]:>12}  {run.path}")
        print(f"{len(runs)} runs, {_count(states)}")
        return 0
    with locked(options.out) as lock:
        states = _states(options, runs)
        children = Children(options.jobs or _cores(), lock)
        failed = _train(options, runs, states, children)
    finished = sum((run.path / "summary.json").is_file() for run in runs)
    if children.signal:
        print(f"stopped with {finished} of {len(runs)} runs finished; go on with:")
        print(f"  {_again(options)}")
        return 128 + children.signal
    _report(options, cells, notes)
    for run, status in failed.items():
        log = _log(run)
        print(f"\nfailed (status {status}): {run.title}, whose log {log} ends:\n{_tail(log)}")
    if failed:
        print(f"\n{len(failed)} of {len(runs)} runs failed; try them again with:")
        print(f"  {_again(options)}")
    return 1 if failed else 0


def _cells(options: ReproduceOptions) -> tuple[list[Cell], dict[str, list[str]]]:
    """Return the cells to train, and by reason the names of those that make no sense."""
    cells, left_out = [], dict[str, list[str]]()
    for task in dict.fromkeys(options.tasks):
        for agents in dict.fromkeys(options.agents):
            for network in sorted(set(options.networks), key=NETWORKS.index):
                for method in sorted(set(options.methods), key=COLUMNS.index):
                    cell = Cell(task=task, agents=agents, method=method, network=network)
                    reason = why_left_out(cell, options.preset)
                    if reason is None:
                        cells.append(cell)
                    else:
                        left_out.setdefault(reason, []).append(cell.name)
    return cells, left_out


def _runs(options: ReproduceOptions, cells: Sequence[Cell]) -> list[_Run]:
    """Return all runs, one seed after another, so that every cell soon has one."""
    budget = ["--stop-at", str(options.stop_at)]
    for name in ("total_steps", "cpu_limit"):
        if getattr(options, name) is not None:
            budget += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    folder = options.out / options.preset
    return [
        _Run(cell=cell, seed=seed, path=folder / f"{cell.name}-{seed}", budget=tuple(budget))
        for seed in dict.fromkeys(options.seeds)
        for cell in cells
    ]


def _states(options: ReproduceOptions, runs: Sequence[_Run]) -> dict[_Run, str]:
    """Return whether each run is new, interrupted or finished.

    Raises:
        UsageError: options are wrong, or a folder holds a run with another configuration.
    """
    states, tried = {}, set[tuple[str, str]]()
    for run in runs:
        kind = (run.cell.method, run.cell.network)
        exists = (run.path / "config.json").is_file()
        if exists or kind not in tried:
            tried.add(kind)
            wanted = _parse(options, run)
        states[run] = _state(run, wanted) if exists else "new"
    return states


def _parse(options: ReproduceOptions, run: _Run) -> TrainOptions:
    """Return the options a run has, as `train` would read them."""
    cell = run.cell
    start = TrainOptions(
        method=cell.method,
        env=cell.env,
        agents=cell.agents,
        network=cell.network,
        preset=options.preset,
    )
    wanted = parse_train(run.arguments(options), recommended(start))
    wanted.refuse_idle_sections()
    return wanted


def _state(run: _Run, wanted: TrainOptions) -> str:
    """Return the state of a run that was started, if it is the run that is wanted."""
    folder = RunFolder(run.path)
    had = TrainOptions.from_json(folder.config)
    summary = folder.summary()
    found = [d for d in differences(asdict(had), asdict(wanted)) if d[0] not in NOT_LEARNED_BY]
    for name, was, now in found:
        if name not in _BUDGET or not _more(was, now):
            raise UsageError(
                f"the run in {run.path} has {name} {was}, not {now}; repeat the command it was "
                "started with (a budget may be raised), or give another --out"
            )
    if summary is None:
        return "interrupted"
    return "finished" if not found or _done(summary, had, wanted) else "to prolong"


def _more(was: int | float | None, now: int | float | None) -> bool:
    """Return whether a budget was raised; None is no limit."""
    return was is not None and (now is None or now > was)


def _done(summary: dict[str, Any], had: TrainOptions, wanted: TrainOptions) -> bool:
    """Return whether a finished run has nothing left to do under a larger budget."""
    cpu, wall, goal = wanted.cpu_limit, wanted.time_limit, had.stop_at
    return (
        summary["env_steps"] >= wanted.total_steps
        or (cpu is not None and summary["cpu_seconds"] >= cpu)
        or (wall is not None and summary["wall_seconds"] >= wall)
        or (goal is not None and goal == wanted.stop_at and "reached" in summary["stopped"])
    )


def _train(
    options: ReproduceOptions, runs: Sequence[_Run], states: dict[_Run, str], children: Children
) -> dict[_Run, int]:
    """Run what is not finished; return the exit statuses of runs that failed."""
    failed: dict[_Run, int] = {}
    jobs, of, done = [], {}, [run for run in runs if states[run] == "finished"]
    for run in runs:
        if run in done:
            continue
        resume = () if states[run] == "new" else ("--resume",)
        arguments = ("train", *run.arguments(options), *resume)
        job = Job(name=run.path.name, arguments=arguments, log=_log(run))
        jobs.append(job)
        of[job] = run
    (options.out / options.preset).mkdir(parents=True, exist_ok=True)
    print(f"{len(runs)} runs in {options.out / options.preset}, {_count(states)}")
    with tqdm(total=len(runs), initial=len(done), unit="run", disable=None) as bar:

        def started() -> None:
            bar.set_postfix_str(", ".join(children.names))

        def ended(job: Job, status: int) -> None:
            run = of[job]
            finished = status == 0 and (run.path / "summary.json").is_file()
            if finished:
                done.append(run)
                bar.update()
                bar.write(f"{_result(run)}  [{len(done)}/{len(runs)}]")
            elif not children.signal:
                failed[run] = status
                bar.write(f"failed: {run.title}")

        for job in jobs:
            _clear(of[job].path)
        children.run(jobs, started, ended)
    return failed


def _clear(path: Path) -> None:
    """Take away what a kill in the middle of the very first write left."""
    if path.is_dir() and not (path / "config.json").exists():
        for file in path.glob(".config.json.*.partial"):
            file.unlink()


def _result(run: _Run) -> str:
    summary = RunFolder(run.path).summary() or {}
    reached, value = summary["normalised_return"], summary["cpu_seconds"]
    return f"{run.title}: normalised return {reached:.3f}, {value:.1f} CPU-s"


def _report(options: ReproduceOptions, cells: Sequence[Cell], notes: Sequence[str]) -> None:
    seeds = tuple(dict.fromkeys(options.seeds))
    text = write_table(options.out, options.preset, cells, seeds, options.ceilings, notes)
    print(f"\n{text.split('## Cell')[0]}{options.out / 'table1.md'} has more, pictures beside it")


def _log(run: _Run) -> Path:
    return run.path.with_name(f"{run.path.name}.log")


def _tail(log: Path, lines: int = 8) -> str:
    text = log.read_text(errors="replace") if log.is_file() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _count(states: dict[_Run, str]) -> str:
    values = list(states.values())
    return ", ".join(f"{values.count(state)} {state}" for state in sorted(set(values)))


def _cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
