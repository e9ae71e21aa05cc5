"""What an env of another library hands over, checked; errors name the copy, step and field.

A wrong shape or a number that is not finite would spread through every model that learns from it,
so both are refused. So are observations outside of the env's declared space, where it is bounded.
"""

import contextlib
import linecache
import multiprocessing.connection
import traceback
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.errors import UsageError

SECONDS_TO_DIE = 1.0
"""How long a broken pipe may precede the end of the process at its other side."""
FIELDS = {
    "rewards": "reward",
    "rews": "reward",
    "terminations": "terminated",
    "truncations": "truncated",
    "dones": "done",
    "obs": "observation",
}
"""What Gymnasium and Stable-Baselines3 call what they collect from the copies, and what it is."""


class RawChecks:
    """Checks what the copies of a raw env return, and says who is to blame.

    Example:
        >>> checks = RawChecks("MyEnv", num_envs=2)
        >>> checks.step = 17
        >>> checks.batch("reward", [1.0, float("nan")], ())  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        diffsurrogate.errors.UsageError: MyEnv: the reward of env 1 at step 17 is not finite ...
    """

    def __init__(self, name: str, num_envs: int) -> None:
        """Start before the first reset.

        Args:
            name: of the raw env, for the messages.
            num_envs: its copies.
        """
        self.name = name
        self.num_envs = num_envs
        self.step = 0
        """Steps since all copies were reset together; the adapter counts."""

    @contextlib.contextmanager
    def calling(self, what: str, raw: Any = None, index: int | None = None) -> Iterator[None]:
        """Turn whatever is raised inside into advice, with the exception chained to it.

        Args:
            what: the call or deed, such as "step()".
            raw: a vector env of Gymnasium or Stable-Baselines3, which can be asked who failed.
            index: of the copy, where it is known beforehand.

        Raises:
            UsageError: something was raised inside. The processes of `raw`, if it has any, are
                ended.
        """
        try:
            yield
        except UsageError:
            raise
        except Exception as error:
            reason = _reason(error)
            if raw is not None:
                index, reason = _blame(raw.unwrapped, error)
                end_processes(raw.unwrapped)  # which would wait for each other from now on
            who = f"one of the {self.num_envs} envs" if index is None else f"env {index}"
            raise UsageError(
                f"{self.name}: {who} failed {self._when} in {what}: {reason}"
            ) from error

    def batch(
        self, field: str, got: Any, shape: tuple[int, ...], bounds: Bounds | None = None
    ) -> NDArray[np.float32]:
        """Return what all copies gave as new finite numbers `(env, *shape)`.

        Args:
            field: what it is, such as "reward".
            got: one row per copy.
            shape: of a row.
            bounds: in which the rows must lie; None for anywhere.

        Raises:
            UsageError: a row has another shape, is not numbers, is not finite or is out of bounds.
        """
        try:
            with np.errstate(over="ignore"):  # float64 that is too large becomes infinite
                rows = np.array(got, dtype=np.float32)
        except (TypeError, ValueError) as error:
            if isinstance(got, list | tuple | np.ndarray):
                rows_one_by_one = enumerate(got)
                return np.stack(
                    [self.one(field, row, shape, i, bounds) for i, row in rows_one_by_one]
                )
            raise UsageError(
                f"{self.name}: the {field} of all envs {self._when} is a {type(got).__name__}; "
                f"numbers (env, ...) = {(self.num_envs, *shape)} are needed"
            ) from error
        if rows.shape != (self.num_envs, *shape):
            self._refuse_batch(field, rows.shape, shape)
        if not np.isfinite(rows).all():
            index = int(np.argwhere(~np.isfinite(rows))[0, 0])
            self.one(field, rows[index], shape, index)
        if bounds is not None:
            found = bounds.first_outside(rows)
            if found is not None:
                self.one(field, rows[found[0]], shape, found[0], bounds)
        return rows

    def one(
        self,
        field: str,
        got: Any,
        shape: tuple[int, ...],
        index: int,
        bounds: Bounds | None = None,
    ) -> NDArray[np.float32]:
        """Return what one copy gave as new finite numbers `shape`.

        Args:
            field: what it is, such as "observation of agent_1".
            got: numbers, or nested lists of them.
            shape: what they must have.
            index: of the copy.
            bounds: in which it must lie; None for anywhere.

        Raises:
            UsageError: the shape is another, or `got` is not numbers, not finite or out of bounds.
        """
        where = f"{self.name}: the {field} of env {index} {self._when}"
        try:
            with np.errstate(over="ignore"):
                row = np.array(got, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where} is not numbers of shape {shape}: {error}") from error
        if row.shape != shape:
            raise UsageError(f"{where} has shape {row.shape}; {shape} is needed")
        if not np.isfinite(row).all():
            place = np.argwhere(~np.isfinite(row))[0].tolist()
            raise UsageError(
                f"{where} is not finite: {row[tuple(place)]}{f' at {place}' if place else ''}; "
                "mend the env, or give finite numbers in a wrapper of it"
            )
        complaint = None if bounds is None else bounds.complaint(row)
        if complaint is not None:
            raise UsageError(f"{where} is {complaint}")
        return row

    def flags(self, field: str, got: Any) -> NDArray[np.bool_]:
        """Return what all copies gave as new `(env,)` bool.

        Raises:
            UsageError: the shape is another.
        """
        flags = np.array(got)
        if flags.shape != (self.num_envs,):
            self._refuse_batch(field, flags.shape, ())
        return flags.astype(np.bool_)

    def missing(self, field: str, index: int) -> UsageError:
        """Return the error that a copy did not give a field."""
        return UsageError(
            f"{self.name}: env {index} gave no {field} {self._when}, where its episode ended; "
            "without it nobody knows where the episode ended up"
        )

    @property
    def _when(self) -> str:
        return f"at step {self.step}" if self.step else "at the reset"

    def _refuse_batch(self, field: str, got: tuple[int, ...], shape: tuple[int, ...]) -> None:
        raise UsageError(
            f"{self.name}: the {field} of all envs {self._when} has shape {got}; "
            f"(env, ...) = {(self.num_envs, *shape)} is needed"
        )


# --- who is to blame ------------------------------------------------------------------------------


def _blame(raw: Any, error: Exception) -> tuple[int | None, str]:
    """Return which copy of a vector env failed, None if that cannot be told, and how."""
    if processes_of(raw) and raw.closed:
        return None, _reason(error)
    pipes = list(getattr(raw, "parent_pipes", []))
    if None in pipes:  # Gymnasium drops the pipe of a copy that raised in another process
        return pipes.index(None), _reason(error)
    index, code = _dead_process(raw, error)
    if index is not None:
        died = f"its process died, exit code {code} ({type(error).__name__})"
        return index, f"{died}; what it printed may say why"
    return _failed_copy(raw, error)


def _failed_copy(raw: Any, error: Exception) -> tuple[int | None, str]:
    """Return which copy in this process failed, None if that cannot be told, and how."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [frame.f_locals.get("self") for frame in frames]
    copies = list(getattr(raw, "envs", []))
    for index, copy in enumerate(copies):
        if any(owner is copy for owner in owners):
            last = traceback.extract_tb(error.__traceback__)[-1]
            return index, f"{_reason(error)} ({Path(last.filename).name}:{last.lineno})"
    for index, obs in enumerate(getattr(raw, "_env_obs", [])):  # before Gymnasium stacks them
        if obs is not None and not _stacks(raw.single_observation_space, obs):
            return index, f"its observation does not fit its space: {_reason(error)}"
    loops = [frame for frame, owner in zip(frames, owners, strict=True) if owner is raw]
    if not loops:
        return None, _reason(error)
    loop = loops[-1]  # Gymnasium's or Stable-Baselines3's own, over copies
    if not copies:
        return _odd_one(raw, loop.f_locals, error)
    counter = loop.f_locals.get("env_idx", loop.f_locals.get("i"))
    if loop is not frames[-1]:
        return counter, _reason(error)
    what = "its observation" if loop.f_code.co_name == "_save_obs" else _assigned(error)
    return counter, f"{what} does not fit: {_reason(error)}"


def _odd_one(raw: Any, given: dict[str, Any], error: Exception) -> tuple[int | None, str]:
    """Return whose answer kept those of all processes from being put together, and which."""
    for name, field in FIELDS.items():
        shape = raw.observation_space.shape if name == "obs" else ()
        answers = given.get(name)
        for index, answer in enumerate(answers if isinstance(answers, list | tuple) else ()):
            got = getattr(answer, "shape", None) if name == "obs" else np.shape(answer)
            if got is not None and shape is not None and got != shape:
                return index, f"its {field} has shape {got}; {shape} is needed ({_reason(error)})"
    return None, _reason(error)


def _assigned(error: Exception) -> str:
    """Return which field of a copy's answer could not be stored, from where that was tried."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0).encode()
    code = line[last.colno : last.end_colno if last.end_lineno == last.lineno else None].decode()
    fields = [field for name, field in FIELDS.items() if name != "obs" and name in code]
    return f"its {fields[0]}" if len(fields) == 1 else "what it returned"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _dead_process(raw: Any, error: Exception) -> tuple[int | None, int | None]:
    """Return which copy's process ended, and its exit code, if the error may come from that."""
    processes = getattr(raw, "processes", [])
    if not processes or not isinstance(error, EOFError | OSError):
        return None, None
    sentinels = [process.sentinel for process in processes]
    ended = multiprocessing.connection.wait(sentinels, timeout=SECONDS_TO_DIE)
    if not ended:
        return None, None
    index = sentinels.index(ended[0])
    processes[index].join()
    return index, processes[index].exitcode


def _stacks(space: Space[Any], obs: Any) -> bool:
    room: Any = create_empty_array(space, 1)
    try:
        concatenate(space, [obs], room)
    except Exception:
        return False
    return True


SECONDS_TO_END = 2.0
"""How long a process may take to end when it is asked to, before it is killed."""


def processes_of(raw: Any) -> list[BaseProcess]:
    """Return the processes of an unwrapped vector env, one per copy; none if it has no such."""
    found = getattr(raw, "processes", None) or []
    return [process for process in found if isinstance(process, BaseProcess)]


def await_answers(raw: Any) -> None:
    """Wait until each process of an unwrapped `SubprocVecEnv` has answered.

    Processes that were forked hold each other's pipes open, so that nobody would notice the end of
    one that died.

    Raises:
        EOFError: one ended without an answer.
    """
    for remote, process in zip(getattr(raw, "remotes", ()), processes_of(raw), strict=False):
        if remote not in multiprocessing.connection.wait([remote, process.sentinel]):
            raise EOFError("no answer")


def end_if_stuck(raw: Any) -> None:
    """End the processes of an unwrapped vector env where closing it would wait forever.

    It would where one of them is dead, or owes an answer.
    """
    state = getattr(raw, "_state", None)  # Gymnasium's; `waiting` is Stable-Baselines3's
    owes = getattr(raw, "waiting", False) or getattr(state, "name", "DEFAULT") != "DEFAULT"
    processes = processes_of(raw)
    if owes or not all(process.is_alive() for process in processes):
        end_processes(raw)


def end_processes(raw: Any) -> None:
    """End the processes of an unwrapped vector env, which is then closed; does nothing without."""
    processes = processes_of(raw)
    if not processes:
        return
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(SECONDS_TO_END)
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in [*getattr(raw, "parent_pipes", ()), *getattr(raw, "remotes", ())]:
        if pipe is not None:
            pipe.close()
    raw.closed = True
