"""System Neural Diversity of a trained policy's agents (arXiv:2305.02128)."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.distances import choices_diversity, gaussian_diversity

_CHUNK = 2**22
"""Largest number of values compared at a time."""


@torch.no_grad()
def policy_diversity(actor: Actor, obs: Tensor) -> float:
    """Return the mean distance between two agents' action distributions on the same observation.

    Discrete actions: the Jensen-Shannon distance, from 0 (all agents alike) to 1. Continuous ones:
    the Wasserstein distance of the Gaussians over normalised actions, before squashing.

    Args:
        actor: a policy whose agents see their own features only, such as `IPPO(env).predictor`.
        obs: (*batch, agent, obs_dim), such as from `visited`; every agent's policy is evaluated on
            the observations of all agents.

    Raises:
        UsageError: there are fewer than 2 agents or no observations, the policy is recurrent, or
            an agent's action depends on the other agents.

    Example:
        >>> from diffsurrogate import IPPO, make
        >>> env = make("games/specialisation", num_envs=4, n_agents=3)
        >>> agent = IPPO(env)
        >>> policy_diversity(agent.predictor, visited(agent.predict, env, steps=1)) < 0.1
        True
    """
    agents, features = obs.shape[-2:]
    if agents < 2 or obs.numel() == 0:
        raise UsageError(
            f"obs has the shape {tuple(obs.shape)}; diversity needs at least 2 agents and 1 "
            "observation"
        )
    reason = why_not_comparable(actor)
    if reason is not None:
        raise UsageError(f"diversity compares agents on the same observation, but {reason}")
    total, seen = 0.0, obs.reshape(-1, 1, features)
    act_dim = actor.action_space.scale.shape[-1]
    for part in seen.split(max(1, _CHUNK // (agents * agents * act_dim))):
        seen_by_all = part.expand(-1, agents, -1)
        if actor.discrete:
            value = choices_diversity(actor(seen_by_all).softmax(-1))
        else:
            mean, log_std = actor.gaussian(seen_by_all)
            value = gaussian_diversity(mean, log_std.exp().expand_as(mean))
        total += float(value) * len(part)
    return total / len(seen)


def why_not_comparable(actor: Actor) -> str | None:
    """Return why agents cannot be compared on a single observation; None if they can."""
    config = actor.config
    if config.net.hears_others:
        return (
            f"agents of this {config.net.architecture} network also see the others' features; use "
            "separate, hyper-linear, hyper-mlp, dico, or shared with pool_others=False"
        )
    if config.net.gru_size > 0:
        return "a recurrent policy depends on earlier observations too; use net.gru_size=0"
    if config.order != "simultaneous" and config.conditioning != "none":
        return (
            "agents that act one after another also see earlier agents' actions; leave order at "
            '"simultaneous"'
        )
    return None


@torch.no_grad()
def visited(
    predict: Callable[[Tensor], Tensor], env: MultiAgentVectorEnv, *, steps: int, seed: int = 0
) -> Tensor:
    """Return the observations visited by a policy: (time, env, agent, obs_dim).

    Args:
        predict: maps obs (env, agent, obs_dim) to actions, such as `IPPO.predict`, or for recurrent
            policies `IPPO.policy(env)`.
        env: is reset first.
        steps: of every env.
        seed: of the reset.

    Raises:
        UsageError: `steps` is below 1.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1")
    env.reset(seed=seed)
    seen = []
    for _ in range(steps):
        seen.append(env.current_obs)
        env.step(predict(env.current_obs))
    return torch.stack(seen)
