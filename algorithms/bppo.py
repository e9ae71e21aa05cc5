"""BPPO, ARMAPPO and HAPPO: each agent has its own probability ratio, weighted by its peers'.

BPPO: Li et al., AAAI 2024, algorithm 1. ARMAPPO: Fu et al., ICML 2022. HAPPO: arXiv:2109.11251.
Windows, targets and the critic are PPO's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor
from diffsurrogate.algorithms.clipped_surrogate import (
    ClipConfig,
    refuse_memory,
    shuffled,
    step_report,
)
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.config import require_choices
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import later_ratio, peer_clipped_loss
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.optimisation import mean_report
from diffsurrogate.training.metrics import Metrics

_SEPARATE = SeparateNetConfig(hidden=(64, 64), activation="relu", layer_norm=False)


def chained_actor(conditioning: Literal["projection", "raw", "none"]) -> ActorConfig:
    """Return an actor whose agents act in the env's order, each with a separate network."""
    return ActorConfig(net=_SEPARATE, learn_std=True, order="listed", conditioning=conditioning)


def whole_windows() -> ClipConfig:
    """Return the papers' setting: 5 epochs over whole windows."""
    return ClipConfig(epochs=5, batch_size=1_000_000, max_grad_norm=10.0, lr=3e-4)


@dataclass(frozen=True, kw_only=True)
class BPPOConfig(PPOConfig):
    """Bidirectional PPO: agents act one after another and are updated in the opposite order.

    Every agent has a separate policy, and advantages are normalised per agent.
    """

    actor: ActorConfig = field(default_factory=lambda: chained_actor("projection"))
    """The agents' policies; order must not be simultaneous."""
    clip: ClipConfig = field(default_factory=whole_windows)
    """Epochs, minibatches and clipping of each agent's steps."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the value function."""
    scheme: Literal["sequential", "simultaneous"] = "sequential"
    """sequential: agents are updated one after another, each for all epochs, given the ratios of
    those updated before. simultaneous: every step updates all agents."""
    update_order: Literal["backward", "random"] = "backward"
    """Order of updates in the sequential scheme. backward: from the last agent to act to the first.
    random: drawn for each window."""
    use_peer_ratio: bool = True
    """Weight an agent's advantage by the peer ratio M: the product of the ratios of agents updated
    before it or, if simultaneous, of agents acting after it."""
    use_peer_gradient: bool = True
    """Add the gradient of M with respect to the agent's action."""

    @classmethod
    def armappo(cls) -> "BPPOConfig":
        """Return the defaults of ARMAPPO: simultaneous updates, without peer terms."""
        return cls(scheme="simultaneous", use_peer_ratio=False, use_peer_gradient=False)

    @classmethod
    def happo(cls) -> "BPPOConfig":
        """Return the defaults of HAPPO: independent policies, updated in random order."""
        return cls(actor=chained_actor("none"), update_order="random", use_peer_gradient=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        refuse_memory("a method of agents in turn", self.actor.net, self.critic.net)
        if self.actor.order == "simultaneous":
            raise UsageError(
                "actor.order is 'simultaneous', but these methods update every agent's policy "
                "separately; choose another order (with conditioning='none' agents do not see each "
                "other's actions)"
            )
        if self.clip.ratio != "per_agent":
            raise UsageError(
                f"clip.ratio is {self.clip.ratio!r}, but every agent has its own ratio here; leave "
                "it at 'per_agent'"
            )
        if self.use_peer_gradient and self.actor.conditioning == "none":
            raise UsageError(
                "use_peer_gradient=True passes a gradient through the actions that agents see, but "
                "actor.conditioning is 'none'; set it to False, or let them see actions"
            )
        if self.scheme == "simultaneous" and self.update_order != "backward":
            raise UsageError(
                f"update_order={self.update_order!r} is for sequential updates, but scheme is "
                "'simultaneous', where all learn at once; leave update_order at 'backward', or set "
                "scheme='sequential'"
            )
        if self.use_peer_gradient and not (self.use_peer_ratio and self.update_order == "backward"):
            raise UsageError(
                "use_peer_gradient=True passes back the gradient of M, which needs "
                "use_peer_ratio=True and update_order='backward'; set it to False otherwise"
            )


@dataclass(frozen=True, kw_only=True)
class SequentialBatch:
    """A window with time and env merged into one step axis, without a graph."""

    obs: Tensor
    """(step, agent, obs_dim)"""
    action: Tensor
    """(step, agent, act_dim) as sampled, not clamped."""
    noise: Tensor
    """(step, agent, act_dim), the noise of the actions."""
    log_prob: Tensor
    """(step, agent) under the policy that acted."""
    gain: Tensor
    """(step, agent): advantages, normalised per agent if configured; 0 for dead agents."""
    alive_mask: Tensor
    """(step, agent) bool: which agents are alive."""

    def at(self, chosen: Tensor) -> "SequentialBatch":
        """Select rows of the first axis."""
        return SequentialBatch(**{name: value[chosen] for name, value in vars(self).items()})


class BPPO(PPO):
    """Bidirectional PPO: agents act one after another, and gradients pass back to earlier agents.

    Example:
        >>> from diffsurrogate import BPPO, make
        >>> env = make("games/climbing", num_envs=64)
        >>> agent = BPPO(env).learn(total_steps=4096)
    """

    config_type = BPPOConfig
    config: BPPOConfig
    actor: AutoregressiveActor

    def __init__(
        self, env: MultiAgentVectorEnv, config: PPOConfig | None = None, *, seed: int = 0
    ) -> None:
        """Build actors and critic for an env; arguments as for `PPO`.

        Raises:
            UsageError: as `PPO`; or `use_peer_gradient` is set for a method without it.
        """
        super().__init__(env, config, seed=seed)
        if self.config.use_peer_gradient and not self.default_config().use_peer_gradient:
            name = type(self).__name__
            raise UsageError(
                f"{name} has no peer gradient, but use_peer_gradient is True; start from "
                f"BPPOConfig.{name.lower()}(), or train BPPO"
            )

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return the default hyperparameters."""
        return BPPOConfig()

    def _policy_step(self, window: Window, noise: Tensor, advantage: Tensor) -> Metrics:
        batch = self._batch(window, noise, advantage)
        if self.config.scheme == "simultaneous":
            return mean_report(list(self._update_all(batch)))
        log_ratio = torch.zeros_like(batch.gain[:, 0])  # log M: of all agents updated so far
        log_ratio_grad = torch.zeros_like(batch.action)  # its gradient with respect to actions
        reports = []
        for agent in self._agents_to_update():
            ratio = log_ratio.exp()
            peer_grad = ratio.unsqueeze(-1) * log_ratio_grad[:, agent]
            reports += list(self._update_one(agent, batch, ratio, peer_grad))
            change, change_grad = peer_feedback(self.actor, agent, batch)
            if self.config.use_peer_ratio:
                log_ratio = log_ratio + change
            if self.config.use_peer_gradient:
                log_ratio_grad = log_ratio_grad + change_grad
        return mean_report(reports)

    @torch.no_grad()
    def _batch(self, window: Window, noise: Tensor, advantage: Tensor) -> SequentialBatch:
        gain = advantage.flatten(0, 1)
        if self.config.clip.advantage == "shared":
            gain = gain.mean(-1, keepdim=True).expand_as(gain)
        alive = torch.ones_like(gain, dtype=torch.bool)
        if window.alive_mask is not None:
            alive = window.alive_mask.flatten(0, 1)
        if self.config.clip.normalise:
            error = gain - gain.where(alive, torch.nan).nanmean(0)
            gain = error / (error.where(alive, torch.nan).square().nanmean(0).sqrt() + 1e-5)
        obs, action = window.obs.flatten(0, 1), window.action.flatten(0, 1)
        return SequentialBatch(
            obs=obs,
            action=action,
            noise=noise.flatten(0, 1),
            log_prob=self.actor.log_prob(obs, action),
            gain=gain.where(alive, 0.0),
            alive_mask=alive,
        )

    def _agents_to_update(self) -> list[int]:
        """Return the agents in the order of their updates."""
        agent_order: list[int] = self.actor.agent_order.tolist()
        if self.config.update_order == "backward":
            return agent_order[::-1]
        return torch.randperm(len(agent_order), generator=self.minibatch_rng).tolist()

    def _update_one(
        self, agent: int, batch: SequentialBatch, ratio: Tensor, peer_grad: Tensor
    ) -> Iterator[dict[str, Tensor]]:
        """Update one agent for all epochs, given M and its gradient; yield a report per step."""
        config = self.config.clip
        for chosen in shuffled(len(batch.obs), config, self.minibatch_rng):
            part = batch.at(chosen)
            alive = part.alive_mask[:, agent]
            if not bool(alive.any()):
                continue
            out = self.actor.output(agent, part.obs, self.actor.seen(part.action))
            loss, new = self._loss(agent, out, part, ratio[chosen], peer_grad[chosen])
            norm = self.actor_optimiser.step(loss)
            report = step_report(loss, norm, new[alive], part.log_prob[alive, agent], config)
            yield report | {"peer_slope": peer_grad[chosen].abs().mean()}
            if config.target_kl is not None and bool(report["kl"] > config.target_kl):
                break

    def _update_all(self, batch: SequentialBatch) -> Iterator[dict[str, Tensor]]:
        """Update all agents simultaneously, using the current M and its gradient."""
        config, actor = self.config.clip, self.actor
        agents, agent_order = range(batch.gain.shape[1]), actor.agent_order.tolist()
        for chosen in shuffled(len(batch.obs), config, self.minibatch_rng):
            part = batch.at(chosen)
            alive = part.alive_mask
            if not bool(alive.any()):
                continue
            # separate from `part.action`: no gradient through an agent's own action
            seen = actor.seen(part.action).detach().requires_grad_(self.config.use_peer_gradient)
            outs = [actor.output(agent, part.obs, seen) for agent in agents]
            new = [actor.log_prob_of(agent, outs[agent], part.action) for agent in agents]
            log_ratio = (torch.stack(new, -1) - part.log_prob).where(alive, 0.0)
            ratio = torch.ones_like(log_ratio)
            log_ratio_grad = torch.zeros_like(part.action)
            if self.config.use_peer_ratio:
                ratio = later_ratio(log_ratio.detach(), agent_order)
            if self.config.use_peer_gradient:
                log_ratio_grad = torch.autograd.grad(log_ratio.sum(), seen, retain_graph=True)[0]
            peer_grad = ratio.unsqueeze(-1) * log_ratio_grad
            losses = [
                self._loss(agent, outs[agent], part, ratio[:, agent], peer_grad[:, agent])[0]
                for agent in agents
            ]
            loss = torch.stack(losses).sum()
            norm = self.actor_optimiser.step(loss)
            densities = torch.stack(new, -1)[alive], part.log_prob[alive]
            report = step_report(loss, norm, *densities, config)
            yield report | {"peer_slope": peer_grad.abs().mean()}
            if config.target_kl is not None and bool(report["kl"] > config.target_kl):
                break

    def _loss(
        self, agent: int, out: Tensor, part: SequentialBatch, ratio: Tensor, peer_grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return one agent's loss and the log-densities of its actions, given its outputs."""
        new = self.actor.log_prob_of(agent, out, part.action)
        loss = peer_clipped_loss(
            new,
            part.log_prob[:, agent],
            part.gain[:, agent],
            ratio,
            peer_grad,
            self.actor.reparameterised(agent, out, part.action, part.noise),
            clip_range=self.config.clip.clip_range,
        )
        if self.config.clip.entropy_weight > 0:
            entropy = self.actor.entropy_of(agent, out).where(part.alive_mask[:, agent], 0.0)
            loss = loss - self.config.clip.entropy_weight * entropy.mean()
        return loss, new


class ARMAPPO(BPPO):
    """MAPPO whose agents act one after another, without a peer gradient."""

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return `BPPOConfig.armappo()`."""
        return BPPOConfig.armappo()


class HAPPO(BPPO):
    """Independent policies updated one after another, each given the ratios of those before."""

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return `BPPOConfig.happo()`."""
        return BPPOConfig.happo()


def peer_feedback(
    actor: AutoregressiveActor, agent: int, past: SequentialBatch
) -> tuple[Tensor, Tensor]:
    r"""Return an agent's log-ratio and its gradient with respect to earlier agents' actions.

    $\log \rho_i$ (step,) and $\nabla_{a_j} \log \rho_i$ (step, agent, act_dim), with respect to
    actions as networks see them. The old densities are constants, so the gradient is that of the
    new policy alone (theorem 1).
    """
    seen = actor.seen(past.action).detach().requires_grad_()
    new = actor.log_prob_of(agent, actor.output(agent, past.obs, seen), past.action)
    change = (new - past.log_prob[:, agent]).where(past.alive_mask[:, agent], 0.0)
    (grad,) = torch.autograd.grad(change.sum(), seen, allow_unused=True)
    return change.detach(), torch.zeros_like(seen) if grad is None else grad
