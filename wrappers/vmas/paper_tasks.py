"""The tasks of the SHAC++ paper (Bertolotti et al., ECAI 2025), ids `paper/<task>`."""

from typing import Any

from diffsurrogate.errors import UsageError, did_you_mean
from diffsurrogate.wrappers.vmas import adapter as vmas
from diffsurrogate.wrappers.vmas.sampling import Sampling
from diffsurrogate.wrappers.vmas.scenarios import Discovery, Dispersion, Transport

TASKS = {
    "dispersion": Dispersion,
    "transport": Transport,
    "discovery": Discovery,
    "sampling": Sampling,
}


def ids() -> list[str]:
    """Return the names of the tasks."""
    return list(TASKS)


def make(
    task: str,
    *,
    num_envs: int = 512,
    n_agents: int = 3,
    max_steps: int | None = 512,
    **options: Any,
) -> vmas.VmasEnv:
    """Make one of the paper's tasks with the paper's numbers; arguments as in `vmas.make`.

    Raises:
        UsageError: the paper has no such task.
    """
    if task not in TASKS:
        raise UsageError(
            f"the paper has no task {task!r}; known: {', '.join(TASKS)}{did_you_mean(task, TASKS)}"
        )
    return vmas.make(
        TASKS[task](), num_envs=num_envs, n_agents=n_agents, max_steps=max_steps, **options
    )
