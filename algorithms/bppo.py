"""BPPO, ARMAPPO and HAPPO: each agent climbs by a ratio of its own, knowing its peers'.

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
    mean_report,
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
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.training.trainer import Metrics

_SEPARATE = NetConfig(architecture="separate", hidden=(64, 64), activation="relu", layer_norm=False)


def chained_actor(conditioning: Literal["projection", "raw", "none"]) -> ActorConfig:
    """Return agents that act as the env lists them, each with a network of its own."""
    return ActorConfig(net=_SEPARATE, learn_std=True, order="listed", conditioning=conditioning)


def whole_windows() -> ClipConfig:
    """Return the papers' steps: 5 epochs over the whole window."""
    return ClipConfig(epochs=5, batch_size=1_000_000, max_grad_norm=10.0, lr=3e-4)


@dataclass(frozen=True, kw_only=True)
class BPPOConfig(PPOConfig):
    """Bidirectional PPO: agents act one after another and learn the other way round.

    Every agent has a policy of its own and advantages normalised by themselves.
    """

    actor: ActorConfig = field(default_factory=lambda: chained_actor("projection"))
    clip: ClipConfig = field(default_factory=whole_windows)
    critic_lr: float = 3e-4
    """Adam's learning rate of the value function."""
    scheme: Literal["sequential", "simultaneous"] = "sequential"
    """sequential: one agent takes all its steps on a window, then the next, which knows the ratios
    of those before. simultaneous: all take each step together."""
    update_order: Literal["backward", "random"] = "backward"
    """Who learns first, in the sequential scheme only. backward: who acts last. random: drawn for
    each window."""
    use_peer_ratio: bool = True
    """Weigh an agent's gain by the ratios of its peers, M: those that learned before it, or, of
    simultaneous learners, those that act after it."""
    use_peer_gradient: bool = True
    """Add the feedback of those that act after an agent: how M changes with its action."""

    @classmethod
    def armappo(cls) -> "BPPOConfig":
        """Return the defaults of ARMAPPO: all agents learn at once, each by its own ratio."""
        return cls(scheme="simultaneous", use_peer_ratio=False, use_peer_gradient=False)

    @classmethod
    def happo(cls) -> "BPPOConfig":
        """Return the defaults of HAPPO: independent policies, updated in turn in a random order."""
        return cls(actor=chained_actor("none"), update_order="random", use_peer_gradient=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        refuse_memory("a method of agents in turn", self.actor.net, self.critic.net)
        if self.actor.order == "simultaneous":
            raise UsageError(
                "actor.order is 'simultaneous', but these methods give every agent a policy that "
                "learns by itself; choose another order (with conditioning='none' agents do not "
                "see each other's actions)"
            )
        if self.clip.ratio != "per_agent":
            raise UsageError(
                f"clip.ratio is {self.clip.ratio!r}, but every agent climbs by its own ratio here; "
                "leave it at 'per_agent'"
            )
        if self.use_peer_gradient and self.actor.conditioning == "none":
            raise UsageError(
                "use_peer_gradient=True passes feedback through the actions that agents see, but "
                "actor.conditioning is 'none'; set it to False, or let them see actions"
            )
        if self.scheme == "simultaneous" and self.update_order != "backward":
            raise UsageError(
                f"update_order={self.update_order!r} says which agent learns first, but scheme is "
                "'simultaneous', where all learn at once; leave update_order at 'backward', or set "
                "scheme='sequential'"
            )
        if self.use_peer_gradient and not (self.use_peer_ratio and self.update_order == "backward"):
            raise UsageError(
                "use_peer_gradient=True passes back the change of M with actions, which needs "
                "use_peer_ratio=True and update_order='backward'; set it to False otherwise"
            )


@dataclass(frozen=True, kw_only=True)
class SequentialBatch:
    """What agents did in a window, with time and env as one axis: nothing in it has a graph."""

    obs: Tensor
    """(step, agent, obs_dim)"""
    action: Tensor
    """(step, agent, act_dim) as drawn, not clamped."""
    noise: Tensor
    """(step, agent, act_dim) that they were drawn with."""
    log_prob: Tensor
    """(step, agent) of the policy that acted."""
    gain: Tensor
    """(step, agent): advantages, normalised for each agent if asked; 0 of who is not there."""
    alive_mask: Tensor
    """(step, agent) bool: who is there to act."""

    def at(self, chosen: Tensor) -> "SequentialBatch":
        """Return rows of the first axis."""
        return SequentialBatch(**{name: value[chosen] for name, value in vars(self).items()})


class BPPO(PPO):
    """Bidirectional PPO: agents act one after another, and pass back what that does to the next.

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
        """Build actors and critic for an env; arguments as of `PPO`.

        Raises:
            UsageError: as `PPO`; or the method passes nothing back, but `use_peer_gradient` is set.
        """
        super().__init__(env, config, seed=seed)
        if self.config.use_peer_gradient and not self.default_config().use_peer_gradient:
            name = type(self).__name__
            raise UsageError(
                f"{name} passes nothing back, but use_peer_gradient is True; start from "
                f"BPPOConfig.{name.lower()}(), or train BPPO"
            )

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return the hyperparameters that are taken where none are given."""
        return BPPOConfig()

    def _policy_step(self, window: Window, noise: Tensor, advantage: Tensor) -> Metrics:
        past = self._past(window, noise, advantage)
        if self.config.scheme == "simultaneous":
            return mean_report(list(self._together(past)))
        log_ratio = torch.zeros_like(past.gain[:, 0])  # of all who learned, their product M
        slope = torch.zeros_like(past.action)  # of the same with respect to actions
        reports = []
        for agent in self._turns():
            ratio = log_ratio.exp()
            peer_grad = ratio.unsqueeze(-1) * slope[:, agent]
            reports += list(self._alone(agent, past, ratio, peer_grad))
            change, change_slope = peer_feedback(self.actor, agent, past)
            if self.config.use_peer_ratio:
                log_ratio = log_ratio + change
            if self.config.use_peer_gradient:
                slope = slope + change_slope
        return mean_report(reports)

    @torch.no_grad()
    def _past(self, window: Window, noise: Tensor, advantage: Tensor) -> SequentialBatch:
        gain = advantage.flatten(0, 1)
        if self.config.clip.advantage == "shared":
            gain = gain.mean(-1, keepdim=True).expand_as(gain)
        there = torch.ones_like(gain, dtype=torch.bool)
        if window.alive_mask is not None:
            there = window.alive_mask.flatten(0, 1)
        if self.config.clip.normalise:
            error = gain - gain.where(there, torch.nan).nanmean(0)
            gain = error / (error.where(there, torch.nan).square().nanmean(0).sqrt() + 1e-5)
        obs, action = window.obs.flatten(0, 1), window.action.flatten(0, 1)
        return SequentialBatch(
            obs=obs,
            action=action,
            noise=noise.flatten(0, 1),
            log_prob=self.actor.log_prob(obs, action),
            gain=gain.where(there, 0.0),
            alive_mask=there,
        )

    def _turns(self) -> list[int]:
        """Return the agents in the order they learn."""
        agent_order: list[int] = self.actor.agent_order.tolist()
        if self.config.update_order == "backward":
            return agent_order[::-1]
        return torch.randperm(len(agent_order), generator=self.minibatch_rng).tolist()

    def _alone(
        self, agent: int, past: SequentialBatch, ratio: Tensor, peer_grad: Tensor
    ) -> Iterator[Metrics]:
        """Let one agent climb for all its epochs, given M and its slope; yield a report a step."""
        config = self.config.clip
        for chosen in shuffled(len(past.obs), config, self.minibatch_rng):
            part = past.at(chosen)
            out = self.actor.output(agent, part.obs, self.actor.seen(part.action))
            loss, new = self._loss(agent, out, part, ratio[chosen], peer_grad[chosen])
            norm = self.actor_optimiser.step(loss)
            report = step_report(loss, norm, new, part.log_prob[:, agent], config)
            yield report | {"peer_slope": float(peer_grad[chosen].abs().mean())}
            if config.target_kl is not None and report["kl"] > config.target_kl:
                break

    def _together(self, past: SequentialBatch) -> Iterator[Metrics]:
        """Let all agents climb at once, given M and its slope as they are by then."""
        config, actor = self.config.clip, self.actor
        agents, agent_order = range(past.gain.shape[1]), actor.agent_order.tolist()
        for chosen in shuffled(len(past.obs), config, self.minibatch_rng):
            part = past.at(chosen)
            # apart from `part.action`: of what is seen only, not of the action itself
            seen = actor.seen(part.action).detach().requires_grad_(self.config.use_peer_gradient)
            outs = [actor.output(agent, part.obs, seen) for agent in agents]
            new = [actor.log_prob_of(agent, outs[agent], part.action) for agent in agents]
            log_ratio = (torch.stack(new, -1) - part.log_prob).where(part.alive_mask, 0.0)
            ratio = torch.ones_like(log_ratio)
            slope = torch.zeros_like(part.action)
            if self.config.use_peer_ratio:
                ratio = later_ratio(log_ratio.detach(), agent_order)
            if self.config.use_peer_gradient:
                slope = torch.autograd.grad(log_ratio.sum(), seen, retain_graph=True)[0]
            peer_grad = ratio.unsqueeze(-1) * slope
            losses = [
                self._loss(agent, outs[agent], part, ratio[:, agent], peer_grad[:, agent])[0]
                for agent in agents
            ]
            loss = torch.stack(losses).sum()
            norm = self.actor_optimiser.step(loss)
            report = step_report(loss, norm, torch.stack(new, -1), part.log_prob, config)
            yield report | {"peer_slope": float(peer_grad.abs().mean())}
            if config.target_kl is not None and report["kl"] > config.target_kl:
                break

    def _loss(
        self, agent: int, out: Tensor, part: SequentialBatch, ratio: Tensor, peer_grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return one agent's loss and the log-densities of its actions, from its outputs."""
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
    """MAPPO whose agents act one after another; nothing is passed back."""

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return `BPPOConfig.armappo()`."""
        return BPPOConfig.armappo()


class HAPPO(BPPO):
    """Independent agents that learn in turn, each knowing the ratios of those before it."""

    @classmethod
    def default_config(cls) -> BPPOConfig:
        """Return `BPPOConfig.happo()`."""
        return BPPOConfig.happo()


def peer_feedback(
    actor: AutoregressiveActor, agent: int, past: SequentialBatch
) -> tuple[Tensor, Tensor]:
    r"""Return how an agent's density moved, and what that owes to the actions before its own.

    $\log \rho_i$ (step,) and $\nabla_{a_j} \log \rho_i$ (step, agent, act_dim), of actions as
    networks see them. The old densities are the numbers that actions were drawn with: the change of
    $\rho_i$ with an earlier action is that of the new policy alone (theorem 1).
    """
    seen = actor.seen(past.action).detach().requires_grad_()
    new = actor.log_prob_of(agent, actor.output(agent, past.obs, seen), past.action)
    change = (new - past.log_prob[:, agent]).where(past.alive_mask[:, agent], 0.0)
    (slope,) = torch.autograd.grad(change.sum(), seen, allow_unused=True)
    return change.detach(), torch.zeros_like(seen) if slope is None else slope
