"""Steps of a policy up PPO's clipped objective: what PPO does, and SHAC may do besides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsurrogate.algorithms.ppo_config import ClipConfig
from diffsurrogate.losses import clipped_ratio_loss
from diffsurrogate.noise import NoiseMemory
from diffsurrogate.policies import Actor
from diffsurrogate.window import Window

Descend = Callable[[Tensor], float]
"""Takes one optimiser step down a loss and returns the gradient's norm."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What a policy did in a window, and how well: nothing in it has a graph."""

    obs: Tensor
    """(time, env, agent, obs_dim)"""
    action: Tensor
    """(time, env, agent, act_dim) as drawn, not clamped."""
    log_prob: Tensor
    """(time, env, agent) of the policy that acted."""
    advantage: Tensor
    """(time, env, agent)"""
    memory: NoiseMemory | None = None
    """Of correlated noise; None for white."""


@torch.no_grad()
def experience(
    window: Window, actor: Actor, advantage: Tensor, memory: NoiseMemory | None = None
) -> Experience:
    """Take down a window before the policy that acted in it moves."""
    log_prob = actor.log_prob(window.obs, window.action, memory)
    return Experience(
        obs=window.obs.detach(),
        action=window.action.detach(),
        log_prob=log_prob,
        advantage=advantage,
        memory=memory,
    )


def clipped_steps(
    actor: Actor,
    past: Experience,
    *,
    config: ClipConfig,
    generator: torch.Generator,
    descend: Descend,
) -> dict[str, float]:
    """Climb the clipped objective of one window for some epochs.

    Args:
        actor: the policy, which may have moved a little since it acted.
        past: what it did.
        config: epochs, minibatches and clipping.
        generator: on the CPU, of minibatches.
        descend: takes a step down a loss.

    Returns:
        means over all steps: loss, norm, approximate KL divergence and the share that was clipped.
    """
    memory = None if past.memory is None else past.memory.flat()
    flat = [x.flatten(0, 1) for x in (past.obs, past.action, past.log_prob, past.advantage)]
    obs, action, old_log_prob, advantage = flat
    reports = []
    for chosen in shuffled(len(obs), config, generator):
        old, gain = old_log_prob[chosen], advantage[chosen]
        known = None if memory is None else memory.at(chosen)
        new = actor.log_prob(obs[chosen], action[chosen], known)
        if config.credit == "team":
            gain = gain.mean(-1, keepdim=True).expand_as(gain)
        if config.ratio == "team":
            old, new, gain = old.sum(-1), new.sum(-1), gain.mean(-1)
        if config.normalise and gain.numel() > 1:
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        loss = clipped_ratio_loss(new, old, gain, clip_range=config.clip_range)
        if config.entropy_weight > 0:
            entropy = actor.entropy(obs[chosen], action[chosen])
            if config.ratio == "team":
                entropy = entropy.sum(-1)  # of the actions of all
            loss = loss - config.entropy_weight * entropy.mean()
        report = step_report(loss, descend(loss), new, old, config)
        reports.append(report)
        if config.target_kl is not None and report["kl"] > config.target_kl:
            break
    return mean_report(reports)


def step_report(
    loss: Tensor, norm: float, new: Tensor, old: Tensor, config: ClipConfig
) -> dict[str, float]:
    """Return the figures of one step.

    Args:
        loss: that was descended.
        norm: of its gradient.
        new: log-densities of actions before the step.
        old: the same of the policy that acted.
        config: what the ratio was clipped to.
    """
    change = (new - old).detach()
    ratio = change.exp()
    return {
        "clipped_loss": float(loss.detach()),
        "clipped_gradient_norm": norm,
        "kl": float((ratio - 1 - change).mean()),
        "clipped_share": float(((ratio - 1).abs() > config.clip_range).float().mean()),
    }


def mean_report(reports: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over some steps."""
    return {name: sum(r[name] for r in reports) / len(reports) for name in reports[0]}


def shuffled(rows: int, config: ClipConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the rows of one minibatch after another, every row once per epoch."""
    for _ in range(config.epochs):
        yield from torch.randperm(rows, generator=generator).split(config.batch_size)
