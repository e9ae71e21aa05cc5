"""Envs and trainers from options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.recurrent import RecurrentActor, RecurrentPolicy
from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.cli.options import TrainOptions, made_with
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

_PPO: dict[str, type[PPO]] = {"ppo": PPO, "ippo": IPPO, "mappo": MAPPO}
_CHAINED: dict[str, type[BPPO]] = {"bppo": BPPO, "armappo": ARMAPPO, "happo": HAPPO}


def training_env(options: TrainOptions) -> MultiAgentVectorEnv:
    """Make the env a method trains on, wrapped as the method needs it.

    Raises:
        UsageError: the env is not known, has not what the method needs, or options do nothing.
    """
    options.refuse_idle_sections()
    limit: dict[str, Any] = {} if options.max_steps is None else {"max_steps": options.max_steps}
    env = make(
        options.env,
        num_envs=options.num_envs,
        seed=options.seed,
        device=options.device,
        differentiable=options.method == "shac",
        **limit,
        **made_with(options.agents, options.env_options),
    )
    if options.method not in ("shac+", "shac++"):
        return env
    return LearnedDiffWrapper(
        env,
        dynamics=options.method == "shac++",
        config=options.surrogates,
        seed=options.seed,
    )


def evaluation_env(options: TrainOptions, num_envs: int) -> MultiAgentVectorEnv:
    """Make another env to evaluate on, with its own time limit."""
    made = made_with(options.agents, options.env_options)
    return make(options.env, num_envs=num_envs, device=options.device, **made)


def filmed_env(options: TrainOptions, num_envs: int) -> MultiAgentVectorEnv:
    """Make another env to film.

    Raises:
        UsageError: the env cannot be drawn.
    """
    drawn: dict[str, Any] = {}
    if options.env.startswith(("gymnasium/", "mpe2/", "pettingzoo/")):  # draw only if made to
        drawn["render_mode"] = "rgb_array"
    made = made_with(options.agents, options.env_options)
    return make(options.env, num_envs=num_envs, device=options.device, **drawn, **made)


def trainer(options: TrainOptions, env: MultiAgentVectorEnv) -> Trainer:
    """Make the trainer of a method.

    Raises:
        UsageError: the env has not what the method needs, or Stable-Baselines3 is not installed.
    """
    if options.method in _PPO:
        return _PPO[options.method](env, options.ppo, seed=options.seed)
    if options.method in _CHAINED:
        return _CHAINED[options.method](env, options.bppo, seed=options.seed)
    if options.method == "sb3-ppo":
        from diffsurrogate.wrappers.sb3.trainer import SB3Trainer

        return SB3Trainer(env, options.sb3, seed=options.seed)
    return SHAC(env, options.shac, seed=options.seed)


def trained_policy(
    options: TrainOptions, state: dict[str, Any], env: MultiAgentVectorEnv
) -> Callable[[Tensor], Tensor]:
    """Return the deterministic policy of a checkpoint, to act on `env`.

    Raises:
        UsageError: the checkpoint is not of a training run on such an env.
    """
    try:
        if options.method == "sb3-ppo":
            from diffsurrogate.wrappers.sb3.trainer import load_policy

            return load_policy(env, options.sb3, state["agent"]).predict
        return _actor(options, state["agent"], env)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the checkpoint does not fit the run's configuration ({error}); restore either"
        ) from error


def _actor(
    options: TrainOptions, state: dict[str, Any], env: MultiAgentVectorEnv
) -> Callable[[Tensor], Tensor]:
    low, high = env.action_low, env.action_high
    configs = {"ppo": options.ppo.actor, "bppo": options.bppo.actor, "shac": options.shac.actor}
    actor = build_actor(configs[options.sections[0]], env).to(env.device)
    actor.load_state_dict(state["predictor"])
    if isinstance(actor, RecurrentActor):
        return RecurrentPolicy(actor, env)

    def predict(obs: Tensor) -> Tensor:
        with torch.no_grad():
            return clamp_to_box(actor.act(obs, None), low, high)

    return predict
