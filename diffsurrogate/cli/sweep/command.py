"""`diffsurrogate sweep`: options, and trials one after another or side by side."""

import os
import shlex
import signal
import traceback
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.config_file import yaml_of
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.parsing import started_as
from diffsurrogate.cli.reproduce.pool import Call, RayPool
from diffsurrogate.cli.sweep.space import DECIDED, Dimension, read_space, usual_space
from diffsurrogate.cli.sweep.study import Study, Trial
from diffsurrogate.cli.train import train
from diffsurrogate.config import require_range
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Method
from diffsurrogate.training.run_folder import RunFolder, write_text

_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Search for hyperparameters by Optuna: pip install "diffsurrogate[sweep]".

    A trial is a training with values of its own for some options; those that fall behind are
    stopped early. Repeat the same command after a stop or a kill: trials go on where their last
    checkpoints stood. The same command in another terminal takes part.
    Options after -- are handed to every training, such as -- --total-steps 100000.
    """

    method: tyro.conf.Positional[Method]
    env: tyro.conf.Positional[str]
    search: tuple[str, ...] = ()
    """What to search: for each option of `train` NAME=LOW:HIGH, NAME=LOW:HIGH:log for a logarithmic
    scale, or NAME=A,B,C. Empty for what is usual for the method."""
    trials: int = 30
    """Of the whole sweep; to go on with more, repeat the command with a higher number."""
    seeds: tuple[int, ...] = (0,)
    """A training for each; their mean return is the trial's."""
    evaluations: int = 10
    """Of each training on the way; after each, a trial may be stopped."""
    prune: bool = True
    """Stop a trial whose best evaluation so far is below the median of the others' after as many
    env steps, from a fifth of the steps on."""
    sampler_seed: int = 0
    """Of the values that are tried."""
    jobs: int = 1
    """Trials at a time; several are run by Ray: pip install "diffsurrogate[ray]"."""
    out: Path | None = None
    """Folder of the sweep; None for runs/sweep-METHOD-ENV."""
    extra: tyro.conf.Suppress[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is started."""
        require_range(self, "trials", "evaluations", "jobs", low=1.0)
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"seeds are {self.seeds}; give at least one, each once, none below 0")
        for option in self.extra:
            name = option.partition("=")[0].removeprefix("--").removeprefix("no-")
            if option.startswith("--") and name.replace("_", "-") in DECIDED:
                raise UsageError(f"{option} after -- is what sweep decides for each training")

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        name = f"sweep-{self.method}-{self.env.replace('/', '-')}"
        return self.out if self.out is not None else Path("runs") / name

    @property
    def words(self) -> list[str]:
        """METHOD, ENV and the options that all trainings have."""
        return [self.method, self.env, *self.extra]


def sweep(options: SweepOptions) -> int:
    """Run all trials and write what was found; return the exit status, 1 if none succeeded."""
    search = options.search or usual_space(read_train(options.words))
    options = replace(options, search=tuple(search))
    if (options.folder / "config.json").is_file():
        raise UsageError(f"{options.folder} is the folder of a run; give another --out")
    space = read_space(options.search, options.words)
    study = _open(options, space)
    print(f"{options.trials} trials of {shlex.join(options.words)} in {options.folder}, over")
    print("\n".join(f"  {text}" for text in options.search), flush=True)
    with study.told_of():
        status = work(options, study) if options.jobs == 1 else _side_by_side(options)
    for file in study.write():
        print(f"  {file}")
    if status == _INTERRUPTED:
        print("stopped; repeat the command to go on")
    best = study.best
    if best is None:
        print("no trial was trained to the end")
        return status or 1
    words = [word for part in space for word in part.option(str(best.params[part.name]))]
    file = options.folder / "best.yaml"
    write_text(file, yaml_of(_with(options, words)))
    print(f"best: trial {best.number} with {best.value:.4g}: {shlex.join(words)}")
    print(f"train on with it by: {started_as()} train --config {shlex.quote(str(file))} --seed 1")
    return status


def work(options: SweepOptions, study: Study) -> int:
    """Run trials until there are enough; return the exit status."""
    while (trial := study.next(options.trials)) is not None:
        with closing(trial.lock):
            try:
                value = _value(options, trial)
            except Exception as error:
                with (trial.folder / "error.log").open("w") as log:
                    traceback.print_exc(file=log)
                study.fail(trial, " ".join(f"{type(error).__name__}: {error}".split()))
                continue
            if value is None:
                return _INTERRUPTED
            study.tell(trial, value)
    return 0


def _open(options: SweepOptions, space: list[Dimension]) -> Study:
    """Open the study of the sweep's folder, or make it."""
    return Study(
        options.folder,
        space,
        settings={
            "command": options.words,
            "search": list(options.search),
            "seeds": list(options.seeds),
            "evaluations": options.evaluations,
        },
        seed=options.sampler_seed,
        warm_up=options.evaluations // 5,
        prune=options.prune,
    )


def _with(options: SweepOptions, words: list[str]) -> TrainOptions:
    return replace(read_train([*options.words, *words]), seed=options.seeds[0])


def _value(options: SweepOptions, trial: Trial) -> float | None:
    """Train a trial on all seeds; return the mean of their returns, None after Ctrl-C."""
    ended: list[float] = []
    for place, seed in enumerate(options.seeds):
        folder = trial.folder / f"seed-{seed}"
        settings = _settings(options, trial, seed, folder)
        steps = settings.total_steps

        def worthwhile(row: dict[str, Any], before: int = place, steps: int = steps) -> bool:
            share = min(row["env_steps"] / steps, 1.0)
            value = (sum(ended) + row["mean_return"]) / (before + 1)
            return not trial.is_bad(value, round((before + share) * options.evaluations))

        with folder.with_suffix(".log").open("a") as log, redirect_stdout(log):
            if train(settings, worthwhile) == _INTERRUPTED:
                return None
        summary = RunFolder(folder).summary()
        assert summary is not None
        ended.append(summary["mean_return"])
        if trial.pruned:
            break
    return sum(ended) / len(ended)


def _settings(options: SweepOptions, trial: Trial, seed: int, folder: Path) -> TrainOptions:
    """Return what is trained for a trial and a seed."""
    own = _with(options, trial.words)
    updates = own.total_steps / (own.num_envs * own.recipe.config.horizon)
    return replace(
        own,
        seed=seed,
        out=folder,
        resume=(folder / "config.json").is_file(),
        eval_every=max(1, round(updates / options.evaluations)),
        stop_at=None,
        film_steps=0,
        progress=False,
    )


def _side_by_side(options: SweepOptions) -> int:
    """Run trials in several processes of Ray's; return the exit status."""
    pool = RayPool(options.jobs)
    ended: list[Any] = []
    calls = [
        Call(name=f"worker {number}", function=_worker, arguments=(options, Path.cwd()))
        for number in range(options.jobs)
    ]
    pool.run(calls, lambda: None, lambda _, result: ended.append(result))
    if pool.signal:
        return _INTERRUPTED
    for result in ended:
        if isinstance(result, BaseException):
            raise result
    return int(max(ended))


def _worker(options: SweepOptions, directory: Path) -> int:
    """Run trials in a process that Ray has started."""
    os.chdir(directory)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
    return work(options, _open(options, read_space(options.search, options.words)))
