"""Envs to evaluate and film on, from options."""

import os
from typing import Any

from diffsurrogate.cli.options import TrainOptions, made_with
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make


def evaluation_env(options: TrainOptions, num_envs: int, **more: Any) -> MultiAgentVectorEnv:
    """Make another env to evaluate on, with its own time limit."""
    made = made_with(options.agents, options.env_options)
    return make(options.env, num_envs=num_envs, device=options.device, **more, **made)


def evaluation_steps(options: TrainOptions, env: MultiAgentVectorEnv) -> int | None:
    """Return the longest evaluation episode; None for the time limit of `env`, if it has one."""
    if options.eval_steps is not None or env.max_steps is not None:
        return options.eval_steps
    return options.max_steps


def filmed_env(options: TrainOptions, num_envs: int) -> MultiAgentVectorEnv:
    """Make another env to film.

    Raises:
        UsageError: the env cannot be drawn.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame tells of a missing display
    if options.env.startswith(("gymnasium/", "mpe2/", "pettingzoo/")):  # draw only if made to
        return evaluation_env(options, num_envs, render_mode="rgb_array")
    return evaluation_env(options, num_envs)
