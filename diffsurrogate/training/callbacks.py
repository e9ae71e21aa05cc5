"""Callbacks of `learn`: evaluation, checkpoints, loggers; a list of them, or plain functions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from diffsurrogate.config import require_range
from diffsurrogate.distributed import is_any, rank
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import EVALUATION_SEED, evaluate

Callback = Callable[[Any, dict[str, float]], bool | None]
"""Called with the trainer and an update's metrics; returning False stops the training."""


class TrainingCallback:
    """A callback that is also told of the beginning and the end of `learn`."""

    def begin(self, trainer: Any) -> None:
        """Do something before the first update."""

    def __call__(self, trainer: Any, metrics: dict[str, float]) -> bool | None:
        """Do something after an update; what is added to `metrics` is seen by later callbacks."""

    def end(self, trainer: Any) -> None:
        """Do something after the last update, unless an error ends the training."""

    def close(self) -> None:
        """Let go of files and connections, however the training ends."""


@runtime_checkable
class Logger(Protocol):
    """What takes metrics: a `RunFolder` (CSV and TensorBoard), or one of `loggers`."""

    def log(self, update: int, metrics: dict[str, float]) -> None:
        """Take an update's metrics."""

    def close(self) -> None:
        """Write what is left."""


def as_list(callback: Callback | Sequence[Callback] | None) -> list[Callback]:
    """Return callbacks as a list.

    Raises:
        UsageError: something is none.
    """
    if callback is None:
        return []
    found: list[Callback] = [callback] if callable(callback) else [*callback]
    for one in found:
        if not callable(one) or isinstance(one, type):
            raise UsageError(
                f"{one!r} is no callback; give functions of (trainer, metrics) or objects such as "
                "EvalCallback(env)"
            )
    return found


@contextmanager
def told(trainer: Any, callbacks: list[Callback]) -> Iterator[list[Callback]]:
    """Tell callbacks of the beginning and the end of a training."""
    lasting = [one for one in callbacks if isinstance(one, TrainingCallback)]
    with ExitStack() as at_end:
        for one in lasting:
            at_end.callback(one.close)
            one.begin(trainer)
        yield callbacks
        for one in lasting:
            one.end(trainer)


def name_of(callback: Callback) -> str:
    """Return how a callback is called in code."""
    return getattr(callback, "__name__", type(callback).__name__)


class EvalCallback(TrainingCallback):
    """Evaluates the policy before the first update and every few updates after.

    Adds `evaluation_mean_return` and what else `Evaluation.summary` holds to the metrics, for
    loggers that stand after it in the list. Of several processes the first evaluates. What was best
    before a training is resumed is not known to it.
    """

    def __init__(
        self,
        env: Any,
        *,
        every: int = 10,
        steps: int | None = None,
        seed: int = EVALUATION_SEED,
        best: str | Path | None = None,
        stop_at_return: float | None = None,
    ) -> None:
        """Evaluate on an env of its own.

        Args:
            env: anything that `as_multi_agent` takes, other than the one that is trained on.
            every: updates between evaluations.
            steps: longest episode; None for the env's time limit.
            seed: of the env's reset, the same each time.
            best: file for the trainer at its best, as by `save`; None for none.
            stop_at_return: mean return, summed over agents, at which to stop; None for none.

        Raises:
            UsageError: `every` is below 1, or the env is of no known kind.
        """
        self.env = as_multi_agent(env)
        self.every, self.steps, self.seed = every, steps, seed
        require_range(self, "every", low=1.0)
        self.best = None if best is None else Path(best)
        self.stop_at_return = stop_at_return
        self.history: list[dict[str, float]] = []
        """A row for each evaluation: `update`, `env_steps` and what was measured."""

    def begin(self, trainer: Any) -> None:
        """Refuse the env that is trained on; evaluate a policy that was not trained yet."""
        if _innermost(self.env) is _innermost(trainer.env):
            raise UsageError(
                "EvalCallback has the env that is trained on, which evaluating would reset; make "
                "another one for it"
            )
        if trainer.iteration == 0:
            self._evaluate(trainer)

    def __call__(self, trainer: Any, metrics: dict[str, float]) -> bool:
        """Evaluate if it is time; return False once `stop_at_return` is reached."""
        if trainer.iteration % self.every:
            return True
        found = self._evaluate(trainer)
        metrics |= {f"evaluation_{name}": value for name, value in found.items()}
        goal = self.stop_at_return
        return goal is None or found.get("mean_return", float("-inf")) < goal

    def _evaluate(self, trainer: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        if rank() == 0:
            result = evaluate(trainer.policy(self.env), self.env, steps=self.steps, seed=self.seed)
            found = {name: value for name, value in result.summary().items() if value is not None}
            steps = {"update": float(trainer.iteration), "env_steps": float(trainer.env_steps)}
            self.history.append(steps | found)
        best = max((row["mean_return"] for row in self.history[:-1]), default=float("-inf"))
        is_best = is_any(bool(found) and found["mean_return"] > best)
        if self.best is not None and is_best:
            trainer.save(self.best)
        return found


def _innermost(env: Any) -> Any:
    """Return the env that wrappers of ours are around."""
    while isinstance(inner := getattr(env, "env", None), MultiAgentVectorEnv):
        env = inner
    return env


class CheckpointCallback(TrainingCallback):
    """Saves the trainer every few updates and at the end, for `load` to go on from."""

    def __init__(self, path: str | Path, *, every: int = 25) -> None:
        """Save into one file, which is replaced at once or not at all.

        Args:
            path: the file.
            every: updates between checkpoints.

        Raises:
            UsageError: `every` is below 1.
        """
        self.path, self.every = Path(path), every
        require_range(self, "every", low=1.0)

    def __call__(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Save if it is time."""
        if trainer.iteration % self.every == 0:
            trainer.save(self.path)

    def end(self, trainer: Any) -> None:
        """Save what was learned last."""
        trainer.save(self.path)


class LogCallback(TrainingCallback):
    """Gives each update's metrics to a logger; of several processes the first does."""

    def __init__(self, logger: Logger) -> None:
        """Log to `RunFolder.create(path, config)`, `WandbLogger` or `MLflowLogger`."""
        self.logger = logger

    def __call__(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Log an update."""
        if rank() == 0:
            self.logger.log(trainer.iteration, metrics)

    def close(self) -> None:
        """Close the logger."""
        self.logger.close()
