"""Weights & Biases and MLflow: metrics of an update, by its number."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diffsurrogate.config import by_dotted_name
from diffsurrogate.errors import UsageError
from diffsurrogate.training.callbacks import Logger

_MISSING = "{0} is not installed; install it: pip install 'diffsurrogate[{0}]'"


class WandbLogger:
    """Logs to Weights & Biases, online or offline.

    A run of the same id goes on where it was. Weights & Biases keeps the first row of an update
    that is logged twice, as after a kill.
    """

    def __init__(
        self,
        project: str | None = None,
        *,
        name: str | None = None,
        run_id: str | None = None,
        config: dict[str, Any] | None = None,
        folder: str | Path | None = None,
        mode: str | None = None,
    ) -> None:
        """Begin a run, or go on with one.

        Args:
            project: of the run; None for what WANDB_PROJECT says, or diffsurrogate.
            name: shown for the run; None for one that is made up.
            run_id: letters, digits, "-" and "_"; None for a new run.
            config: hyperparameters to show beside the curves.
            folder: for local files; None for the current one.
            mode: online, offline or disabled; None for what WANDB_MODE says, or online.

        Raises:
            UsageError: wandb is not installed, or refuses.
        """
        try:
            import wandb
        except ImportError as error:
            raise UsageError(_MISSING.format("wandb")) from error
        try:
            self.run = wandb.init(
                project=project or os.environ.get("WANDB_PROJECT", "diffsurrogate"),
                name=name,
                id=run_id,
                resume="allow",
                config=config,
                dir=None if folder is None else str(folder),
                # read anew, as wandb does so only once in a process
                mode=mode or os.environ.get("WANDB_MODE"),  # type: ignore[arg-type]
            )
        except (wandb.Error, ValueError) as error:
            raise UsageError(
                f"Weights & Biases cannot begin a run: {error}; log in (wandb login), or set "
                "WANDB_MODE=offline and sync the run later"
            ) from error

    def log(self, update: int, metrics: dict[str, float]) -> None:
        """Log an update's metrics; `a/b` becomes a chart b in a section a."""
        self.run.log(metrics, step=update, commit=True)

    def close(self) -> None:
        """Wait until all is written or sent."""
        self.run.finish()


class MLflowLogger:
    """Logs to an MLflow server, database or folder.

    A run of the same name in the experiment goes on where it was; metrics of an update that is
    logged twice, as after a kill, stand there twice.
    """

    def __init__(
        self,
        experiment: str = "diffsurrogate",
        *,
        name: str,
        config: dict[str, Any] | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        """Begin a run, or go on with one.

        Args:
            experiment: made if it does not exist.
            name: of the run.
            config: hyperparameters to show beside the curves; nested ones get dotted names.
            tracking_uri: such as http://HOST:5000, sqlite:///FILE or file:FOLDER; None for what
                MLFLOW_TRACKING_URI says.

        Raises:
            UsageError: mlflow is not installed, or the server, database or folder refuses.
        """
        try:
            from mlflow import MlflowClient, MlflowException
            from mlflow.entities import Metric
        except ImportError as error:
            raise UsageError(_MISSING.format("mlflow")) from error
        self._metric, self._refused = Metric, MlflowException
        try:
            self.client = MlflowClient(tracking_uri)
            self.run_id = self._begin(experiment, name, config or {})
        except MlflowException as error:
            raise UsageError(
                f"MLflow cannot begin a run: {error}; give the address of a server "
                "(MLFLOW_TRACKING_URI=http://HOST:5000), or allow a folder: "
                "MLFLOW_ALLOW_FILE_STORE=true MLFLOW_TRACKING_URI=file:FOLDER"
            ) from error

    def _begin(self, experiment: str, name: str, config: dict[str, Any]) -> str:
        found = self.client.get_experiment_by_name(experiment)
        number = self.client.create_experiment(experiment) if found is None else found.experiment_id
        quote = '"' if "'" in name else "'"  # none can be escaped
        before = self.client.search_runs([number], f"attributes.run_name = {quote}{name}{quote}")
        if before:
            run_id: str = before[0].info.run_id
            self.client.set_terminated(run_id, "RUNNING")
            return run_id
        run_id = self.client.create_run(number, run_name=name).info.run_id
        for key, value in by_dotted_name(config).items():
            self.client.log_param(run_id, key, value)
        return run_id

    def log(self, update: int, metrics: dict[str, float]) -> None:
        """Log an update's metrics at once."""
        now = int(1000 * time.time())
        rows = [self._metric(name, value, now, update) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=rows)

    def close(self) -> None:
        """Mark the run as finished."""
        self.client.set_terminated(self.run_id)


def loggers(names: Iterable[str], folder: Path, config: dict[str, Any]) -> list[Logger]:
    """Return the named loggers of a run folder, by which a resumed run is known again.

    Raises:
        UsageError: a library is not installed, or refuses.
    """
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    name = f"{folder.name}-{place}"
    made: dict[str, Callable[[], Logger]] = {
        "wandb": lambda: WandbLogger(
            name=folder.name, run_id=f"run-{place}", config=config, folder=folder
        ),
        "mlflow": lambda: MLflowLogger(name=name, config=config),
    }
    return [made[chosen]() for chosen in dict.fromkeys(names)]
