"""System Neural Diversity of a trained policy's agents (arXiv:2305.02128)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.distances import (
    choices_diversity,
    gaussian_diversity,
    gaussian_jensen_shannon_diversity,
)

Distance = Literal["jensen-shannon", "wasserstein"]
_CHUNK = 2**22
"""Largest number of values compared at a time."""
_SAMPLES = 64
"""Of a Gaussian, and as many mirrored ones, for a Jensen-Shannon distance."""


@torch.no_grad()
def policy_diversity(actor: Actor, obs: Tensor, *, distance: Distance | None = None) -> float:
    """Return the mean distance between two agents' action distributions on the same observation.

    It depends on the observations: compare policies on the same ones.

    Args:
        actor: a policy whose agents see their own features only, such as `IPPO(env).predictor`.
        obs: (*batch, agent, obs_dim), such as from `visited`; every agent's policy is evaluated on
            the observations of all agents, but for those that are NaN.
        distance: jensen-shannon, from 0 (all agents alike) to 1, of Gaussians by samples; or
            wasserstein, of Gaussians over normalised actions before squashing. None for
            jensen-shannon if actions are discrete, wasserstein if they are continuous.

    Raises:
        UsageError: there are fewer than 2 agents or no observations, the policy is recurrent, an
            agent's action depends on the other agents, or `distance` is wasserstein of discrete
            actions.

    Example:
        >>> from diffsurrogate import IPPO, make
        >>> env = make("games/specialisation", num_envs=4, n_agents=3)
        >>> agent = IPPO(env)
        >>> policy_diversity(agent.predictor, visited(agent.predict, env, steps=1)) < 0.1
        True
    """
    agents, features = obs.shape[-2:]
    seen = obs.reshape(-1, 1, features)
    seen = seen[~seen.isnan().any(-1).squeeze(-1)]
    if agents < 2 or len(seen) == 0:
        raise UsageError(
            f"obs has the shape {tuple(obs.shape)}, {len(seen)} observations of it not NaN; "
            "diversity needs at least 2 agents and 1 observation"
        )
    reason = why_not_comparable(actor)
    if reason is not None:
        raise UsageError(f"diversity compares agents on the same observation, but {reason}")
    if distance == "wasserstein" and actor.discrete:
        raise UsageError(
            "distance is wasserstein, which is of Gaussians, but actions are discrete; use "
            "jensen-shannon"
        )
    total, noise = 0.0, None
    if distance == "jensen-shannon" and not actor.discrete:
        noise = _noise(actor.action_space.scale)
    compared = agents * agents * actor.action_space.scale.shape[-1]
    compared *= 1 if noise is None else len(noise)
    for part in seen.split(max(1, _CHUNK // compared)):
        total += float(_diversity(actor, part.expand(-1, agents, -1), noise)) * len(part)
    return total / len(seen)


def _diversity(actor: Actor, obs: Tensor, noise: Tensor | None) -> Tensor:
    if actor.discrete:
        return choices_diversity(actor(obs).softmax(-1))
    mean, log_std = actor.gaussian(obs)
    std, common = log_std.exp().expand_as(mean), actor.action_space.free.all(0)
    mean, std = mean[..., common], std[..., common]
    if noise is None:
        return gaussian_diversity(mean, std)
    return gaussian_jensen_shannon_diversity(mean, std, noise[..., common])


def _noise(like: Tensor) -> Tensor:
    """Return standard normal rows (sample, act_dim), always the same, each with its mirror."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_SAMPLES, like.shape[-1], generator=generator).to(like)
    return torch.cat([noise, -noise])


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
    """Return the observations visited by a policy, (time, env, agent, obs_dim), NaN of the dead.

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
        seen.append(seen_alive(env))
        env.step(predict(env.current_obs))
    return torch.stack(seen)


def seen_alive(env: MultiAgentVectorEnv) -> Tensor:
    """Return what agents see now, (env, agent, obs_dim), NaN of those that are dead."""
    obs, alive = env.current_obs.detach(), env.alive_mask
    return obs if alive is None else obs.masked_fill(~alive.unsqueeze(-1), torch.nan)
