"""The study of a sweep: trials in an SQLite file, which several processes may share."""

import csv
import io
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from diffsurrogate.cli.options import briefly
from diffsurrogate.cli.sweep.space import Dimension
from diffsurrogate.errors import UsageError
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.lock import FolderInUse, FolderLock
from diffsurrogate.training.run_folder import write_text

_FIRST = 5
"""Trials of which none is pruned: others are compared with them."""
_FUTILE = 3
"""Failures without a success after which a sweep gives up."""


_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
"""Optuna's, in words."""
_EVERY = 1.0
"""Seconds between looks at what has ended."""


class Trial:
    """Values of the options that are searched; kept for this process until its lock is closed."""

    def __init__(
        self, trial: Any, space: Sequence[Dimension], folder: Path, steps: Iterable[int] = ()
    ) -> None:
        """Take an Optuna trial; values that it has not yet are drawn.

        Args:
            trial: running.
            space: what is searched.
            folder: for its trainings.
            steps: of values that were reported before it was left unfinished.

        Raises:
            FolderInUse: another process has it.
        """
        self.folder = folder
        self.lock = FolderLock(folder, "trial")
        self.optuna = trial
        self.number: int = trial.number
        self.words = [word for part in space for word in part.suggest(trial)]
        """The options with their values, as words of a command line."""
        self.pruned = False
        self._steps: set[int] = set(steps)

    def is_bad(self, value: float, step: int) -> bool:
        """Report a value on the way; return whether the trial is worth no more training."""
        if step not in self._steps:  # as after a kill, or before the training on the next seed
            self._steps.add(step)
            self.optuna.report(value, step)
        self.pruned = bool(self.optuna.should_prune())
        return self.pruned


class Study:
    """Trials of one sweep."""

    def __init__(
        self,
        folder: Path,
        space: Sequence[Dimension],
        settings: dict[str, Any],
        *,
        seed: int,
        warm_up: int,
        prune: bool,
    ) -> None:
        """Open the study in a folder, or make it.

        Args:
            folder: of the sweep.
            space: what is searched.
            settings: what must be the same whenever the sweep goes on.
            seed: of the values that are tried.
            warm_up: the step of values on the way up to which no trial is pruned.
            prune: whether any is.

        Raises:
            UsageError: Optuna is not installed, the folder cannot be used, or holds a sweep with
                other settings.
        """
        self.folder, self.space, self.seed = folder, space, seed
        self._optuna = optuna = _optuna()
        pruner = optuna.pruners.NopPruner()
        if prune:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=warm_up)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._study = optuna.create_study(
                    storage=optuna.storages.RDBStorage(
                        _url(folder / "study.db"), engine_kwargs={"connect_args": {"timeout": 60}}
                    ),
                    study_name="sweep",
                    direction="maximize",
                    pruner=pruner,
                    load_if_exists=True,
                )
                had = self._study.user_attrs.setdefault("settings", settings)
                self._study.set_user_attr("settings", had)
        except OSError as error:
            raise UsageError(f"{folder} cannot be used ({error}); give another --out") from error
        for name, value in settings.items():
            if had[name] != value:
                raise UsageError(
                    f"the sweep in {folder} has {name} {had[name]}, not {value}; repeat its "
                    "command, or give another --out"
                )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out for a moment."""
        with filelock.FileLock(self.folder / ".study.lock"):
            yield

    @property
    def trials(self) -> list[Any]:
        """All trials as Optuna has them, in the order of their numbers."""
        return list(self._study.get_trials(deepcopy=False))

    @property
    def best(self) -> Any | None:
        """The best of the trials that were trained to the end; None if there is none yet."""
        complete = [t for t in self.trials if t.state.name == "COMPLETE"]
        return max(complete, key=lambda t: t.value, default=None)

    def next(self, trials: int) -> Trial | None:
        """Return one that was left unfinished or a new one; None if there are `trials` of them.

        Raises:
            UsageError: none has succeeded, and some have failed.
        """
        optuna = self._optuna
        with self._alone():
            known = self.trials
            failed = [t for t in known if t.state.name == "FAIL"]
            if len(failed) >= _FUTILE and self.best is None:
                raise UsageError(
                    f"the first {len(failed)} trials failed, the last with: "
                    f"{failed[-1].user_attrs['error']}"
                )
            for frozen in known:
                if frozen.state.name == "RUNNING":
                    try:
                        left = optuna.trial.Trial(self._study, frozen._trial_id)
                        steps = frozen.intermediate_values
                        return Trial(left, self.space, self._folder(frozen.number), steps)
                    except FolderInUse:
                        continue
            if len(known) >= trials:
                return None
            # one stream for each trial: a sampler with a seed begins anew with every process
            self._study.sampler = optuna.samplers.TPESampler(
                seed=derive_seed(self.seed, f"trial {len(known)}") % 2**32, constant_liar=True
            )
            asked = self._study.ask()
            return Trial(asked, self.space, self._folder(asked.number))

    def tell(self, trial: Trial, value: float) -> None:
        """End a trial with its value."""
        if not math.isfinite(value):
            self.fail(trial, f"its return is {value}")
            return
        if trial.pruned:
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial.number, value)

    def fail(self, trial: Trial, why: str) -> None:
        """End a trial that could not be trained."""
        trial.optuna.set_user_attr("error", why)
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    @contextmanager
    def told_of(self) -> Iterator[None]:
        """Tell of each trial that ends meanwhile, in whichever process: a line, and the table."""
        told, over = {t.number for t in self.trials if t.state.is_finished()}, threading.Event()
        out = sys.stdout  # which a training is about to redirect to its log

        def tell() -> None:
            for trial in self.trials:
                if trial.state.is_finished() and trial.number not in told:
                    told.add(trial.number)
                    print(f"trial {trial.number}: {self._text(trial)}", file=out, flush=True)
                    self._write_table()

        def watch() -> None:
            while not over.wait(_EVERY):
                tell()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            tell()

    def _text(self, trial: Any) -> str:
        """Return what a trial came to, and by which values."""
        if trial.state.name == "FAIL":
            return f"failed: {trial.user_attrs['error']}"
        words = [f"{name}={briefly(value)}" for name, value in trial.params.items()]
        pruned = " (pruned)" if trial.state.name == "PRUNED" else ""
        return f"{briefly(trial.value)}{pruned}  {' '.join(words)}"

    def write(self) -> list[Path]:
        """Write the table and the pictures of what there is; return the files."""
        return [self._write_table(), *self._pictures()]

    def _write_table(self) -> Path:
        file = self.folder / "trials.csv"
        names = [part.name for part in self.space]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["trial", "state", "value", *names])
        for t in self.trials:
            values = [t.params.get(name, "") for name in names]
            value = "" if t.value is None else t.value
            table.writerow([t.number, _STATES[t.state.name], value, *values])
        write_text(file, text.getvalue())
        return file

    def _pictures(self) -> list[Path]:
        """Draw the values by trial and, once they differ, what each option matters."""
        values = [t.value for t in self.trials if t.state.name == "COMPLETE"]
        if not values:
            return []
        from optuna.visualization import matplotlib as plots

        from diffsurrogate.cli.figures import save_figure  # the import takes seconds

        drawn: dict[str, Callable[[Any], Any]] = {"history.png": plots.plot_optimization_history}
        if len(set(values)) > 1:
            drawn["importance.png"] = plots.plot_param_importances
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            for name, draw in drawn.items():
                save_figure(draw(self._study).figure, self.folder / name)
        return [self.folder / name for name in drawn]

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / str(number)


def _url(file: Path) -> str:
    """Return SQLAlchemy's URL of an SQLite file, as Optuna takes it."""
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(file.resolve())).render_as_string()
    return url.replace("{", "{{").replace("}", "}}")  # Optuna formats it


def _optuna() -> Any:
    """Return Optuna's package, told to be quiet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "sweep searches by Optuna, an optional extra: pip install "
            f'"diffsurrogate[sweep]" ({error})'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
