"""Envs to evaluate and film on, and trained policies, from options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.recurrent import RecurrentActor, RecurrentPolicy
from diffsurrogate.cli.options import SB3Options, TrainOptions, made_with
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import sb3_trainer
from diffsurrogate.training.checkpoint import check_finite


def evaluation_env(options: TrainOptions, num_envs: int, **more: Any) -> MultiAgentVectorEnv:
    """Make another env to evaluate on, with its own time limit."""
    made = made_with(options.agents, options.env_options)
    return make(options.env, num_envs=num_envs, device=options.device, **more, **made)


def filmed_env(options: TrainOptions, num_envs: int) -> MultiAgentVectorEnv:
    """Make another env to film.

    Raises:
        UsageError: the env cannot be drawn.
    """
    if options.env.startswith(("gymnasium/", "mpe2/", "pettingzoo/")):  # draw only if made to
        return evaluation_env(options, num_envs, render_mode="rgb_array")
    return evaluation_env(options, num_envs)


def trained_policy(
    options: TrainOptions, state: dict[str, Any], env: MultiAgentVectorEnv
) -> Callable[[Tensor], Tensor]:
    """Return the deterministic policy of a checkpoint, to act on `env`.

    Raises:
        UsageError: the checkpoint is not of a training run on such an env, or its weights are not
            finite.
    """
    try:
        if isinstance(options, SB3Options):
            trainer = sb3_trainer(options.method, env, options.sb3)
            trainer.load_policy(state["agent"])
            return trainer.predict
        return _actor(options, state["agent"], env)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the checkpoint does not fit the run's configuration ({error}); restore either"
        ) from error


def _actor(
    options: TrainOptions, state: dict[str, Any], env: MultiAgentVectorEnv
) -> Callable[[Tensor], Tensor]:
    low, high = env.action_low, env.action_high
    config = getattr(options, options.section).actor
    actor = build_actor(config, env).to(env.device)
    check_finite(state["predictor"], "predictor", actor)
    actor.load_state_dict(state["predictor"])
    if isinstance(actor, RecurrentActor):
        return RecurrentPolicy(actor, env)

    def predict(obs: Tensor) -> Tensor:
        with torch.no_grad():
            return clamp_to_box(actor.act(obs, None), low, high)

    return predict
