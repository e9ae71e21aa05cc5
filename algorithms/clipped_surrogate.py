"""Steps of a policy up PPO's clipped objective: what PPO does, and SHAC may do besides."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.exploration import NoiseState
from diffsurrogate.actor_critic.recurrent import RecurrentActor
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import clipped_ratio_loss
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.recurrent import Recurrence
from diffsurrogate.training.optimisation import ClippedAdam, Gradient


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a policy climbs PPO's clipped objective on one window (arXiv:1707.06347)."""

    epochs: int = 4
    """Passes over the window; none of them if 0."""
    batch_size: int = 2048
    """States of all agents in a minibatch. Policies with memory learn from whole windows of some
    envs, as many as that allows, at least one."""
    clip_range: float = 0.2
    """ε: how far the ratio of new to old density may move a sample's gain."""
    lr: float = 1e-3
    """Adam's learning rate of the policy."""
    max_grad_norm: float = 0.5
    """Largest gradient norm."""
    target_kl: float | None = None
    """Leave a window once a minibatch shows that the policy moved this far (mean KL divergence)."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    ratio: Literal["per_agent", "joint"] = "per_agent"
    """per_agent: a ratio for each agent's action, clipped by itself. joint: one ratio of the
    actions of all, as of one controller."""
    advantage: Literal["individual", "shared"] = "individual"
    """individual: an agent's action earns that agent's reward. shared: it earns the mean over
    all."""
    normalise: bool = True
    """Advantages of a minibatch get mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "epochs", low=0.0)
        require_range(self, "batch_size", low=1.0)
        require_range(self, "clip_range", "max_grad_norm", low=1e-12)
        require_range(self, "lr", "entropy_weight", low=0.0)
        if self.target_kl is not None:
            require_range(self, "target_kl", low=1e-12)


def refuse_memory(method: str, *nets: NetConfig) -> None:
    """Refuse networks with memory where only PPO, IPPO and MAPPO know what to do with it."""
    widest = max(net.gru_size for net in nets)
    if widest > 0:
        raise UsageError(
            f"net.gru_size is {widest}, but {method} learns policies and critics without; leave it "
            "at 0, or train by PPO, IPPO or MAPPO"
        )


def refuse_squash(actor: ActorConfig) -> None:
    """Refuse a squashed policy, whose density is infinite at the border of the box."""
    if actor.squash:
        raise UsageError(
            "PPO's ratio needs the density of the action as it was drawn, which a squashed one "
            "does not keep; leave actor.squash False"
        )


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """What a policy did in a window, and how well: nothing in it has a graph.

    In minibatches for policies without memory, time and env are one axis.
    """

    obs: Tensor
    """(time, env, agent, obs_dim)"""
    action: Tensor
    """(time, env, agent, act_dim) as drawn, not clamped."""
    log_prob: Tensor
    """(time, env, agent) of the policy that acted."""
    advantage: Tensor
    """(time, env, agent)"""
    alive_mask: Tensor | None = None
    """(time, env, agent) bool: who was there to act; None where all always were."""
    memory: NoiseState | None = None
    """Of correlated noise; None for white."""
    recurrence: Recurrence | None = None
    """What a policy with memory knew before; None for the others."""

    def minibatches(
        self, config: ClipConfig, generator: torch.Generator
    ) -> Iterator["PolicyBatch"]:
        """Yield random parts: single steps, or the whole window of some envs if there is memory."""
        names = ("obs", "action", "log_prob", "advantage")
        values = {name: getattr(self, name) for name in names}
        if self.alive_mask is not None:
            values["alive_mask"] = self.alive_mask
        horizon, num_envs = self.log_prob.shape[:2]
        if self.recurrence is not None:
            for envs in shuffled(num_envs, config, generator, steps=horizon):
                part = {name: value[:, envs] for name, value in values.items()}
                yield PolicyBatch(**part, recurrence=self.recurrence.of_envs(envs))
            return
        flat = {name: value.flatten(0, 1) for name, value in values.items()}
        memory = None if self.memory is None else self.memory.flat()
        for chosen in shuffled(horizon * num_envs, config, generator):
            part = {name: value[chosen] for name, value in flat.items()}
            yield PolicyBatch(**part, memory=None if memory is None else memory.at(chosen))


@torch.no_grad()
def policy_batch(
    window: Window,
    actor: Actor,
    advantage: Tensor,
    memory: NoiseState | None = None,
    recurrence: Recurrence | None = None,
) -> PolicyBatch:
    """Take down a window before the policy that acted in it moves.

    Args:
        window: what was seen and done.
        actor: who did it.
        advantage: (time, env, agent).
        memory: of correlated noise; None for white.
        recurrence: what a policy with memory knew before; None for the others.
    """
    obs, action = window.obs.detach(), window.action.detach()
    log_prob, _ = _judge(actor, obs, action, memory, recurrence, entropy=False)
    return PolicyBatch(
        obs=obs,
        action=action,
        log_prob=log_prob,
        advantage=advantage,
        alive_mask=window.alive_mask,
        memory=memory,
        recurrence=recurrence,
    )


def clipped_epochs(
    actor: Actor,
    past: PolicyBatch,
    *,
    config: ClipConfig,
    generator: torch.Generator,
    optimiser: ClippedAdam,
    extra_grad: Gradient | None = None,
) -> dict[str, float]:
    """Climb the clipped objective of one window for some epochs.

    Args:
        actor: the policy, which may have moved a little since it acted.
        past: what it did.
        config: epochs, minibatches and clipping.
        generator: on the CPU, of minibatches.
        optimiser: of the policy.
        extra_grad: added to the gradient of every step.

    Returns:
        means over all steps: loss, norm, approximate KL divergence and the share that was clipped.
    """
    reports = []
    for part in past.minibatches(config, generator):
        old, gain = part.log_prob, part.advantage
        new, entropy = _judge(
            actor,
            part.obs,
            part.action,
            part.memory,
            part.recurrence,
            entropy=config.entropy_weight > 0,
        )
        if config.advantage == "shared":
            gain = gain.mean(-1, keepdim=True).expand_as(gain)
        there = part.alive_mask
        if config.ratio == "joint":
            if there is not None:  # what the others were said to do changed nothing
                old, new = old.where(there, 0.0), new.where(there, 0.0)
                entropy = None if entropy is None else entropy.where(there, 0.0)
            old, new, gain = old.sum(-1), new.sum(-1), gain.mean(-1)
        elif there is not None:
            old, new, gain = old[there], new[there], gain[there]
            entropy = None if entropy is None else entropy[there]
        if config.normalise and gain.numel() > 1:
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        loss = clipped_ratio_loss(new, old, gain, clip_range=config.clip_range)
        if entropy is not None:
            if config.ratio == "joint":
                entropy = entropy.sum(-1)  # of the actions of all
            loss = loss - config.entropy_weight * entropy.mean()
        report = step_report(loss, optimiser.step(loss, extra_grad), new, old, config)
        reports.append(report)
        if config.target_kl is not None and report["kl"] > config.target_kl:
            break
    return mean_report(reports)


def _judge(
    actor: Actor,
    obs: Tensor,
    action: Tensor,
    memory: NoiseState | None,
    recurrence: Recurrence | None,
    *,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return log-densities of actions and, if asked, the policy's entropies, both (*any, agent)."""
    if recurrence is not None:
        assert isinstance(actor, RecurrentActor)
        log_prob, spread = actor.evaluate_actions(obs, action, recurrence)
        return log_prob, spread if entropy else None
    log_prob = actor.log_prob(obs, action, memory)
    return log_prob, actor.entropy(obs, action) if entropy else None


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


def shuffled(
    rows: int, config: ClipConfig, generator: torch.Generator, *, steps: int = 1
) -> Iterator[Tensor]:
    """Yield the rows of one minibatch after another, every row once per epoch.

    Args:
        rows: number of them.
        config: epochs and the states of a minibatch.
        generator: on the CPU.
        steps: states in a row; a minibatch has at least one row, however many they are.
    """
    for _ in range(config.epochs):
        order = torch.randperm(rows, generator=generator)
        yield from order.split(max(config.batch_size // steps, 1))
