"""Envs and trainers from options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.env import MultiAgentVectorEnv, clamp_to_box
from diffsurrogate.errors import UsageError
from diffsurrogate.policies import Actor
from diffsurrogate.registry import make
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


def training_env(options: TrainOptions) -> MultiAgentVectorEnv:
    """Make the env a method trains on, wrapped as the method needs it."""
    limit: dict[str, Any] = {} if options.max_steps is None else {"max_steps": options.max_steps}
    env = make(
        options.env,
        num_envs=options.num_envs,
        seed=options.seed,
        device=options.device,
        differentiable=options.method == "shac",
        **limit,
        **_agents(options),
    )
    if options.method == "shac":
        return env
    return LearnedDiffWrapper(
        env,
        dynamics=options.method == "shac++",
        config=options.surrogates,
        seed=options.seed,
    )


def evaluation_env(options: TrainOptions, num_envs: int) -> MultiAgentVectorEnv:
    """Make another env to evaluate on, with its own time limit."""
    return make(options.env, num_envs=num_envs, device=options.device, **_agents(options))


def trainer(options: TrainOptions, env: MultiAgentVectorEnv) -> SHAC:
    """Make the trainer."""
    return SHAC(env, options.shac, seed=options.seed)


def trained_policy(
    options: TrainOptions, state: dict[str, Any], env: MultiAgentVectorEnv
) -> Callable[[Tensor], Tensor]:
    """Return the deterministic policy of a checkpoint, for any number of copies of its env.

    Raises:
        UsageError: the checkpoint is not of a training run on such an env.
    """
    low, high = env.action_low, env.action_high
    actor = Actor(options.shac.actor, env.num_agents, env.obs_dim, low, high).to(env.device)
    try:
        actor.load_state_dict(state["agent"]["actor"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"the checkpoint does not fit the run's configuration ({error}); restore either"
        ) from error

    def predict(obs: Tensor) -> Tensor:
        with torch.no_grad():
            return clamp_to_box(actor.act(obs, None), low, high)

    return predict


def _agents(options: TrainOptions) -> dict[str, int]:
    return {} if options.agents is None else {"n_agents": options.agents}
