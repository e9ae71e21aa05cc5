"""The processes of a vector env of another library, and how to end them when one has died."""

import multiprocessing.connection
from multiprocessing.process import BaseProcess
from typing import Any

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
