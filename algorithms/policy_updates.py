"""Policy updates of SHAC: two policy gradients and two kinds of steps.

`PathwiseGradient` (pathwise.py) differentiates the return of short windows through native or
learned dynamics; `AllActionGradient` (all_action.py) weights every discrete action by its predicted
value. `GradientUpdate` takes plain optimiser steps with either; `HybridUpdate` adds either to PPO's
clipped steps.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.profiler import record_function

from diffsurrogate.actor_critic.actor import Actor, NoisyPolicy
from diffsurrogate.actor_critic.exploration import NoiseState
from diffsurrogate.actor_critic.hidden_states import critic_past
from diffsurrogate.algorithms.all_action import AllActionConfig, AllActionGradient
from diffsurrogate.algorithms.clipped_surrogate import (
    ClipConfig,
    clipped_epochs,
    policy_batch,
)
from diffsurrogate.algorithms.pathwise import PathwiseConfig, PathwiseGradient
from diffsurrogate.algorithms.value_learning import ValueLearning
from diffsurrogate.config import require_range
from diffsurrogate.distributed import average_in_place, mean_and_std, world_size
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.optimisation import ClippedAdam, Gradient, mean_report
from diffsurrogate.training.metrics import Metrics

GradientConfig = AllActionConfig | PathwiseConfig


@dataclass(frozen=True, kw_only=True)
class GradientUpdateConfig:
    """Plain optimiser steps with Adam."""

    gradient: GradientConfig = field(default_factory=PathwiseConfig)
    """Pathwise or all-action gradient."""
    lr: float = 3e-3
    """Adam's learning rate of the policy."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        require_range(self, "lr", low=0.0)
        require_range(self, "max_grad_norm", low=1e-12)


@dataclass(frozen=True, kw_only=True)
class HybridUpdateConfig:
    """PPO's clipped steps, with a pathwise or all-action gradient added to each.

    Where small changes of an action do not change the reward, the pathwise gradient is zero, but
    PPO's likelihood-ratio gradient is not; its variance is higher.
    """

    ppo: ClipConfig = field(default_factory=lambda: ClipConfig(advantage="shared", target_kl=0.03))
    """Epochs, minibatches and clipping of PPO's steps."""
    weight: float = 0.3
    """Weight of the added gradient, in units of the advantages' standard deviation, usually up to
    1; 0 for PPO alone."""
    weight_steps: int | None = None
    """Env steps over which the weight falls to 0, evenly; None keeps it. Slopes of models show
    early where rewards are; later PPO's gradient knows as much, and without their bias."""
    gradient: GradientConfig = field(default_factory=PathwiseConfig)
    """Pathwise or all-action gradient."""

    def __post_init__(self) -> None:
        require_range(self, "weight", low=0.0)
        if self.weight_steps is not None:
            require_range(self, "weight_steps", low=1.0)
        if self.ppo.epochs < 1:
            raise UsageError(
                "a hybrid update takes PPO's steps, but ppo.epochs is 0; give at least 1, or a "
                "GradientUpdateConfig for plain steps"
            )


UpdateConfig = GradientUpdateConfig | HybridUpdateConfig


PolicyGradient = PathwiseGradient | AllActionGradient


class GradientUpdate:
    """Takes one plain optimiser step for each part of a window."""

    needs_gradients = True
    """Whether this window or a later one needs the env's gradients."""

    def __init__(
        self, config: GradientUpdateConfig, gradient: PolicyGradient, betas: tuple[float, float]
    ) -> None:
        """Make the policy's optimiser."""
        self.gradient = gradient
        self.optimiser = ClippedAdam(
            gradient.actor, config.lr, max_grad_norm=config.max_grad_norm, betas=betas
        )

    def begin(self, env_steps: int) -> None:
        """Do nothing: plain steps have no schedule of their own."""

    def collect(self, policy: NoisyPolicy, horizon: int) -> Window:
        """Collect a window, with a graph if the gradient needs one."""
        return self.gradient.collect(policy, horizon)

    @record_function("policy update")
    def step(
        self, window: Window, noise: Tensor, state: NoiseState | None, target: Tensor
    ) -> Metrics:
        """Train the policy on a window.

        Args:
            window: returned by `collect`.
            noise: (time, env, agent, act_dim), the noise of its actions.
            state: unused.
            target: unused.
        """
        reports = []
        for part in self.gradient.parts(window, noise):
            loss = self.gradient.loss(part)
            trust, rows = self.gradient.env.gradient_trust, part.reward.shape[1]
            norm = self.optimiser.step(loss * trust, rows=rows)
            reports.append({"actor_loss": loss.detach(), "actor_gradient_norm": norm})
        return mean_report(reports) | self.gradient.report()


class HybridUpdate:
    """Takes PPO's clipped steps on a window, with the weighted gradient added to each."""

    def __init__(
        self, config: HybridUpdateConfig, gradient: PolicyGradient, generator: torch.Generator
    ) -> None:
        """Make the policy's optimiser."""
        self.config = config
        self.gradient = gradient
        self.generator = generator
        self.weight = config.weight
        """Of the added gradient, at this time of the training."""
        self.optimiser = ClippedAdam(
            gradient.actor, config.ppo.lr, max_grad_norm=config.ppo.max_grad_norm
        )

    def begin(self, env_steps: int) -> None:
        """Set the weight of the added gradient for a window that begins after so many env steps."""
        steps = self.config.weight_steps
        share = 1.0 if steps is None else max(0.0, 1 - env_steps / steps)
        self.weight = self.config.weight * share

    @property
    def needs_gradients(self) -> bool:
        """Whether this window or a later one needs the env's gradients: the weight never rises."""
        return self.weight > 0

    def collect(self, policy: NoisyPolicy, horizon: int) -> Window:
        """Collect a window, with a graph if the gradient needs one and its weight is above 0."""
        if self.weight == 0:
            return self.gradient.env.collect(policy, horizon)
        return self.gradient.collect(policy, horizon)

    @record_function("policy update")
    def step(
        self, window: Window, noise: Tensor, state: NoiseState | None, target: Tensor
    ) -> Metrics:
        """Train the policy on a window.

        Args:
            window: returned by `collect`.
            noise: (time, env, agent, act_dim), the noise of its actions.
            state: conditional distribution of correlated noise; None for white noise.
            target: (time, env, agent) TD(λ) returns.
        """
        actor = self.gradient.actor
        with torch.no_grad():
            critic = self.gradient.value.critic
            advantage = target - critic.target(window.obs, critic_past(window))
        batch = policy_batch(window, actor, advantage, state)  # before the policy is updated
        config, individual = self.config.ppo, self.gradient.individual
        if individual:
            config = replace(config, advantage="individual")
        deviation = _deviation(advantage if individual else advantage.sum(-1, keepdim=True))
        extra_grad, report = self._weighted_gradient(window, noise, deviation)
        return report | clipped_epochs(
            actor,
            batch,
            config=config,
            generator=self.generator,
            optimiser=self.optimiser,
            extra_grad=extra_grad,
        )

    def _weighted_gradient(
        self, window: Window, noise: Tensor, deviation: Tensor
    ) -> tuple[Gradient, Metrics]:
        """Return the weighted gradient of a window or a part of it, and its unweighted norm.

        Like PPO's advantages, it is divided by the standard deviation of the summed advantages, or
        of each agent's own, and its norm is then clipped to `ppo.max_grad_norm`.

        Args:
            window: as of `step`.
            noise: likewise.
            deviation: (1,), or (agent,) where each agent's weights follow its own return.
        """
        limit = self.config.ppo.max_grad_norm
        weight = self.weight * self.gradient.env.gradient_trust
        if weight == 0:
            return [], {}
        part = next(self.gradient.parts(window, noise))
        weights = self.optimiser.weights
        scale = 1 / deviation.clamp(min=1e-3).mean()
        share = 1 / (scale * deviation.clamp(min=1e-3)) if self.gradient.individual else None
        found = torch.autograd.grad(self.gradient.loss(part, share), weights, allow_unused=True)
        pairs = [(p, g) for p, g in zip(weights, found, strict=True) if g is not None]
        average_in_place([g for _, g in pairs], rows=part.reward.shape[1])
        norm = float(scale * torch.stack([g.norm() for _, g in pairs]).norm())
        report = {"actor_gradient_norm": norm} | self.gradient.report()
        if not math.isfinite(norm):
            self.optimiser.count_skipped()
            return [], report
        scale = scale * weight * min(1.0, limit / max(norm, 1e-12))
        return [(p, scale * g) for p, g in pairs], report


def _deviation(advantage: Tensor) -> Tensor:
    """Return the standard deviation (column,) of advantages (time, env, column); 1 of a single."""
    rows = advantage.flatten(0, 1)
    if len(rows) == 1 and world_size() == 1:
        return torch.ones_like(rows[0])
    return mean_and_std(rows, 0)[1]


def build_update(
    config: UpdateConfig,
    env: MultiAgentVectorEnv,
    actor: Actor,
    value: ValueLearning,
    *,
    horizon: int,
    betas: tuple[float, float],
    generator: torch.Generator,
) -> GradientUpdate | HybridUpdate:
    """Build the configured policy update.

    Args:
        config: gradient and kind of steps.
        env: on which windows are collected.
        actor: the policy.
        value: critic and reward scale.
        horizon: steps of a window.
        betas: Adam's, for plain steps.
        generator: on the CPU, for minibatches.

    Raises:
        UsageError: the env does not support the gradient.
    """
    parts = (env, actor, value, generator)
    gradient: PolicyGradient
    if isinstance(config.gradient, AllActionConfig):
        gradient = AllActionGradient(config.gradient, *parts)
    else:
        gradient = PathwiseGradient(config.gradient, *parts, horizon)
    if isinstance(config, HybridUpdateConfig):
        return HybridUpdate(config, gradient, generator)
    return GradientUpdate(config, gradient, betas)
