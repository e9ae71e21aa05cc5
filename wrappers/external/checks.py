"""What an env of another library hands over, checked; errors name the env, step and field.

Refused are wrong shapes, what is not numbers, and observations outside of the env's declared space,
where it is bounded. Numbers that are not finite pass: every env of ours checks them.
"""

import contextlib
import copy
import functools
import multiprocessing.connection
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.checks import reason
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.infos import one_number

SECONDS_TO_DIE = 1.0
"""How long a broken pipe may precede the end of the process at its other side."""


class SubEnvError(Exception):
    """One of several envs failed; the cause is what it raised, if it did."""

    def __init__(self, index: int, reason: str) -> None:
        """Name the env and what went wrong in it."""
        super().__init__(f"env {index} failed: {reason}")
        self.index, self.reason = index, reason


class KeepsLast(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Copies the last observation of an episode, into whose array a reset may write."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            obs = copy.deepcopy(obs)
        return obs, reward, terminated, truncated, info


def keep_last(raw: Any) -> bool:
    """Let an unwrapped vector env of this process keep last observations; return if it does."""
    envs = getattr(raw, "envs", None)
    if not isinstance(envs, list) or not all(isinstance(env, gymnasium.Env) for env in envs):
        return False
    envs[:] = [KeepsLast(env) for env in envs]
    return True


def keep_options(raw: Any) -> None:
    """Let an unwrapped vector env of Gymnasium leave the options of a reset as they are.

    By itself it takes the mask of a partial reset out of them, and `RecordEpisodeStatistics` around
    it then forgets the episodes of all copies.
    """
    raw.reset = functools.partial(_reset_with_a_copy, raw.reset)


def _reset_with_a_copy(
    reset: Any, *, seed: Any = None, options: dict[str, Any] | None = None
) -> Any:
    return reset(seed=seed, options=None if options is None else dict(options))


def name_of_copies(raw: Any) -> str:
    """Return the class of an unwrapped vector env's copies, or its own where they are not here."""
    copies = getattr(raw, "envs", None) or []
    kinds = {type(getattr(one, "unwrapped", one)).__name__ for one in copies}
    return kinds.pop() if len(kinds) == 1 else type(raw).__name__


class IndexedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One of several envs that step together; its errors carry its index."""

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        """Wrap the env at `index`."""
        super().__init__(env)
        self.index = index
        self.busy = False
        """Whether a call has not returned yet."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the env."""
        obs, info = self._call("reset", "obs, info", **kwargs)
        self._check_form(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        five = "obs, reward, terminated, truncated, info"
        obs, reward, terminated, truncated, info = self._call("step", five, action)
        self._check_form(obs)
        reward = one_number(reward)
        if np.shape(reward) != ():
            raise SubEnvError(self.index, f"its reward has shape {np.shape(reward)}; () is needed")
        return obs, reward, terminated, truncated, info

    def _call(self, method: str, needed: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the env gave, a tuple of what is `needed`."""
        self.busy = True
        try:
            given = getattr(self.env, method)(*args, **kwargs)
        except UsageError:
            raise
        except Exception as error:
            raise SubEnvError(self.index, reason(error)) from error
        finally:
            self.busy = False
        count = len(given) if isinstance(given, tuple | list) else None
        if count != needed.count(",") + 1:
            told = f"a {type(given).__name__}" if count is None else f"{count} values"
            raise SubEnvError(self.index, f"it returned {told}; give {needed}")
        return given

    def _check_form(self, obs: Any) -> None:
        said = misfit(self.env.observation_space, obs)
        if said is not None:
            raise SubEnvError(self.index, f"its observation{said}")


def misfit(space: gymnasium.Space[Any], obs: Any) -> str | None:
    """Say where an observation is not of the shape or has not the parts that its space has."""
    if isinstance(space, gymnasium.spaces.Box) and np.shape(obs) != space.shape:
        return f" has shape {np.shape(obs)}; {space.shape} is needed"
    if not isinstance(space, gymnasium.spaces.Dict):
        return None
    if not isinstance(obs, Mapping):
        return f" is a {type(obs).__name__}; a dict with {', '.join(space)} is needed"
    for key, part in space.items():
        said = misfit(part, obs[key]) if key in obs else " is missing"
        if said is not None:
            return f"[{key!r}]{said}"
    return None


class ExternalChecks:
    """Checks what the sub-environments of an env return, and names the one that is wrong.

    Example:
        >>> checks = ExternalChecks("MyEnv", num_envs=2)
        >>> checks.step = 17
        >>> checks.batch("reward", [1.0, "high"], ())  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        diffsurrogate.errors.UsageError: MyEnv: the reward of env 1 at step 17 is not numbers ...
    """

    def __init__(self, name: str, num_envs: int) -> None:
        """Start before the first reset."""
        self.name = name
        self.num_envs = num_envs
        self.step = 0
        """Steps since all copies were reset together; the adapter counts."""

    @contextlib.contextmanager
    def calling(self, what: str, raw: Any = None, index: int | None = None) -> Iterator[None]:
        """Turn whatever is raised inside into advice, with the exception chained to it.

        Args:
            what: the call or deed, such as "step()".
            raw: a vector env of Gymnasium or Stable-Baselines3, which may have processes.
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
            cause: BaseException | None = error
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, SubEnvError):
                index, why, cause = error.index, error.reason, error.__cause__
            elif raw is not None:
                index, why = _dead_process(raw.unwrapped, error) or (index, why)
                end_processes(raw.unwrapped)  # which would wait for each other from now on
            which = f"one of the {self.num_envs} envs" if index is None else f"env {index}"
            raise UsageError(
                f"{self.name}: {which} failed {self._when} in {what}: {why}"
            ) from cause

    def batch(
        self, field: str, got: Any, shape: tuple[int, ...], bounds: Bounds | None = None
    ) -> NDArray[np.float32]:
        """Return what all copies gave as new numbers `(env, *shape)`.

        Args:
            field: what it is, such as "reward".
            got: one row per copy.
            shape: of a row.
            bounds: in which the rows must lie; None for anywhere.

        Raises:
            UsageError: a row has another shape, is not numbers or is out of bounds.
        """
        try:
            with np.errstate(over="ignore"):  # float64 that is too large becomes infinite
                rows = np.array(got, dtype=np.float32)
        except (TypeError, ValueError) as error:
            if isinstance(got, list | tuple | np.ndarray):
                each = enumerate(got)
                return np.stack([self.one(field, row, shape, i, bounds) for i, row in each])
            raise UsageError(
                f"{self.name}: the {field} of all envs {self._when} is a {type(got).__name__}; "
                f"numbers (env, ...) = {(self.num_envs, *shape)} are needed"
            ) from error
        if rows.shape != (self.num_envs, *shape):
            self._refuse_batch(field, rows.shape, shape)
        if bounds and bounds.first_outside(rows):
            for index, row in enumerate(rows):
                self.one(field, row, shape, index, bounds)
        return rows

    def one(
        self,
        field: str,
        got: Any,
        shape: tuple[int, ...],
        index: int,
        bounds: Bounds | None = None,
    ) -> NDArray[np.float32]:
        """Return what one copy gave as new numbers `shape`; as `batch` otherwise.

        Raises:
            UsageError: the shape is another, or `got` is not numbers or out of bounds.
        """
        where = f"{self.name}: the {field} of env {index} {self._when}"
        try:
            with np.errstate(over="ignore"):
                row = np.array(got, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where} is not numbers of shape {shape}: {error}") from error
        if row.shape != shape:
            raise UsageError(f"{where} has shape {row.shape}; {shape} is needed")
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

    def not_reused(self, last: Tensor, fresh: Tensor, before: Tensor, ended: Any) -> None:
        """Refuse last observations that are the first ones of the next episodes.

        An env that writes every observation into one array gives these, where it is reset within
        the step.

        Args:
            last, fresh, before: before the reset, after it, and before the step, (env, feature).
            ended: (env,) bool.

        Raises:
            UsageError: they are the same in all envs that ended, and other than before the step.
        """
        over = torch.as_tensor(ended).to(last.device)
        same = (last == fresh).flatten(1).all(1) & (before != fresh).flatten(1).any(1)
        if bool(over.any()) and bool(same[over].all()):
            index = int(over.nonzero()[0])
            raise UsageError(
                f"{self.name}: the last observation of env {index} {self._when} is the first of "
                "its next episode; an env that writes into the array it handed out does this: "
                "return obs.copy() in it, or give its class: as_multi_agent(MyEnv, num_envs=8)"
            )

    def missing(self, field: str, index: int) -> UsageError:
        """Return the error that a copy did not give a field."""
        return UsageError(
            f"{self.name}: env {index} gave no {field} {self._when}, where its episode ended; "
            "without it the last observation of the episode is lost"
        )

    @property
    def _when(self) -> str:
        return f"at step {self.step}" if self.step else "at the reset"

    def _refuse_batch(self, field: str, got: tuple[int, ...], shape: tuple[int, ...]) -> None:
        raise UsageError(
            f"{self.name}: the {field} of all envs {self._when} has shape {got}; "
            f"(env, ...) = {(self.num_envs, *shape)} is needed"
        )


# --- processes of vector envs ---------------------------------------------------------------------


def _dead_process(raw: Any, error: Exception) -> tuple[int, str] | None:
    """Return which sub-environment's process died, and how; None if that is not what failed."""
    processes = processes_of(raw)
    if not processes or raw.closed or not isinstance(error, EOFError | OSError):
        return None
    sentinels: list[Any] = [process.sentinel for process in processes]
    for ended in multiprocessing.connection.wait(sentinels, timeout=SECONDS_TO_DIE):
        index = sentinels.index(ended)
        processes[index].join()
        died = f"its process died, exit code {processes[index].exitcode} ({type(error).__name__})"
        return index, f"{died}; what it printed may say why"
    return None


SECONDS_TO_END = 2.0
"""How long a process may take to end when it is asked to, before it is killed."""


def processes_of(raw: Any) -> list[BaseProcess]:
    """Return the processes of an unwrapped vector env, one per copy; none if it has no such."""
    found = getattr(raw, "processes", None) or []
    return [process for process in found if isinstance(process, BaseProcess)]


def awaited_env(raw: Any) -> str:
    """Say which sub-environment of an unwrapped vector env has not answered; "" if none is known.

    Of those in processes, the vector env takes the answers in their order. Taken ones are no longer
    in their pipes, so that the one it waits for is the last without an answer before the first with
    one, or the first without if answers are not taken yet.
    """
    pipes = [*getattr(raw, "parent_pipes", ()), *getattr(raw, "remotes", ())]
    answers = [pipe.poll() for pipe in pipes]
    processes = processes_of(raw)
    if processes and not all(answers):
        first = answers.index(True) if True in answers else len(answers)
        index = first - 1 if first else answers.index(False)
        return f"env {index} (process {processes[index].pid})"
    envs = getattr(raw, "envs", ())
    busy = [env for env in envs if isinstance(env, IndexedEnv) and env.busy]
    return f"env {busy[0].index}" if busy else ""


def await_answers(raw: Any) -> None:
    """Wait until each process of an unwrapped `SubprocVecEnv` has answered.

    Forked processes hold each other's pipes open, which hides that one of them died.

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
