"""The tasks of the SHAC++ paper (Bertolotti et al., ECAI 2025), ids `paper/<task>`."""

import difflib
from typing import Any

import torch

from diffsurrogate.errors import UsageError
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
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = 512,
    **scenario_kwargs: Any,
) -> vmas.VmasEnv:
    """Make one of the paper's tasks with the paper's numbers; arguments as in `vmas.make`.

    Raises:
        UsageError: the paper has no such task.
    """
    if task not in TASKS:
        close = difflib.get_close_matches(task, TASKS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"the paper has no task {task!r}; {hint}Known: {', '.join(TASKS)}")
    return vmas.make(
        TASKS[task](),
        num_envs=num_envs,
        n_agents=n_agents,
        seed=seed,
        device=device,
        differentiable=differentiable,
        max_steps=max_steps,
        **scenario_kwargs,
    )
