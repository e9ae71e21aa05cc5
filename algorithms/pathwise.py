"""The pathwise gradient: of the return of short windows, through dynamics and reward (SHAC)."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.hidden_states import actor_past, critic_past
from diffsurrogate.algorithms.adaptive_horizon import AdaptiveHorizon
from diffsurrogate.algorithms.all_action import AllActionConfig, require_models_if_discrete
from diffsurrogate.algorithms.value_learning import ValueLearning
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import action_penalty, lambda_actor_loss, shac_actor_loss
from diffsurrogate.nets.config import HyperLinearConfig, HyperMLPConfig
from diffsurrogate.nets.hypernet import HyperNet
from diffsurrogate.nets.mlp import only_row
from diffsurrogate.training.metrics import Metrics

_OPPOSED = -0.9
"""Correlation of two agents' rewards below which their sum says little of either."""


@dataclass(frozen=True, kw_only=True)
class PathwiseConfig:
    """Pathwise gradient: of the return of short windows, through dynamics and reward (SHAC)."""

    lam: float | None = None
    """λ of the TD(λ) return from every state of a window, in [0, 1]; None for SHAC's objective: the
    window's rewards plus the value at its end."""
    bootstrap: bool = True
    """Whether the value counts that follows a window or segment; without, the gradient is that of
    back-propagation through time (BPTT) of the rewards alone."""
    minibatches: int = 1
    """Optimiser steps per window, each on a random part of it; more than 1 needs SHAC++."""
    segment_length: int | None = None
    """Steps of the segments windows are split into, each with the value at its end; a divisor of
    the horizon, or None for whole windows. Shorter segments multiply fewer Jacobians."""
    max_growth: float | None = None
    """Adaptive horizon: segments are shortened where the gradient at their first action is more
    than this many times that at their last, usually 10 to 30, and lengthened again where it is
    not (`AdaptiveHorizon`); None for a fixed length."""
    action_penalty_weight: float = 1.0
    """α of the penalty on actions outside their bounds (SHAC++, eq. 3); 0 for none."""
    credit: Literal["auto", "individual", "shared"] = "auto"
    """individual: each agent's weights follow its own return, which needs separate or generated
    networks. shared: all weights follow the sum of all agents' returns. auto: individual where each
    agent has weights of its own, else shared."""
    action_penalty_on: Literal["samples", "means"] = "samples"
    """samples: penalise actions with noise (the paper), which also pulls means to the middle.
    means: penalise mean actions only."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "minibatches", low=1.0)
        require_range(self, "action_penalty_weight", low=0.0)
        if self.lam is not None:
            require_range(self, "lam", low=0.0, high=1.0)
        if self.segment_length is not None:
            require_range(self, "segment_length", low=1.0)
        if self.max_growth is not None:
            require_range(self, "max_growth", low=1e-3)
            if self.segment_length is not None:
                raise UsageError(
                    f"segment_length is {self.segment_length}, but max_growth adapts the length; "
                    "leave one of them at None"
                )

    def check_horizon(self, horizon: int) -> None:
        """Refuse segments that do not divide windows of `horizon` steps."""
        length = self.segment_length or horizon
        if horizon % min(length, horizon):
            raise UsageError(
                f"segment_length is {length}; give one that divides the horizon, {horizon}, or "
                "None for whole windows"
            )

    @property
    def splits(self) -> bool:
        """Whether windows are differentiated in parts."""
        return (
            self.minibatches > 1 or self.segment_length is not None or self.max_growth is not None
        )


class PathwiseGradient:
    """The gradient of the return of short windows (arXiv:2204.07137, eq. 5)."""

    def __init__(
        self,
        config: PathwiseConfig,
        env: MultiAgentVectorEnv,
        actor: Actor,
        value: ValueLearning,
        generator: torch.Generator,
        horizon: int,
    ) -> None:
        """Check that the env supports the configuration.

        Raises:
            UsageError: minibatches or discrete actions are used without learned models.
        """
        if config.minibatches > 1 and not env.can_replay:
            raise UsageError(
                f"minibatches is {config.minibatches}, which differentiates a window again and "
                "needs learned dynamics and reward: SHAC(LearnedDiffWrapper(env), config); or "
                "leave it at 1"
            )
        require_models_if_discrete(env)
        self.individual = learns_apart(config, actor.config, env.num_agents)
        if config.credit == "individual" and not self.individual:
            raise UsageError(
                "credit='individual' needs several agents with separate or generated networks, but "
                f"the policy's is {actor.config.net.architecture} for {env.num_agents}; use "
                "SeparateNetConfig, HyperLinearConfig or HyperMLPConfig, or credit='shared'"
            )
        self.warned = self.individual or env.num_agents == 1
        if self.individual and isinstance(actor.net, HyperNet):
            actor.net.watched = True
        self.config = config
        self.env = env
        self.actor = actor
        self.value = value
        self.generator = generator
        self.adaptive: AdaptiveHorizon | None = None
        if config.max_growth is not None:
            self.adaptive = AdaptiveHorizon(horizon, config.max_growth)

    @property
    def replays(self) -> bool:
        """Whether windows are collected without a graph and differentiated in parts."""
        return self.env.can_replay and self.config.splits

    def segment_length(self, horizon: int) -> int:
        """Return the steps of a segment of windows of `horizon` steps."""
        fixed = min(self.config.segment_length or horizon, horizon)
        return fixed if self.adaptive is None else int(self.adaptive.length)

    def collect(self, policy: NoisyPolicy, horizon: int) -> Window:
        """Collect a window, with the graph of each segment unless it is differentiated later."""
        if self.replays:
            return self.env.collect(policy, horizon)
        length = self.segment_length(horizon)
        segments = [self.env.rollout(policy, length)]
        for _ in range(horizon // length - 1):
            self.env.detach()
            policy.detach()
            segments.append(self.env.rollout(policy, length))
        return Window.join(segments)

    def parts(self, window: Window, noise: Tensor) -> Iterator[Window]:
        """Yield the window, or random parts of it with the graph of the current policy."""
        if not self.warned:
            self.warned = warn_of_opposed_rewards(window.reward)
        if self.adaptive is not None:
            self.env.gradient_guard.norms = []
        length = self.segment_length(window.horizon)
        if not self.replays:
            yield window if length == window.horizon else window.segments(length)
            return
        for part, part_noise in minibatches(
            window,
            noise,
            length=length,
            count=self.config.minibatches,
            generator=self.generator,
        ):
            policy = self.actor.replaying(part_noise, actor_past(part))
            yield self.env.differentiate(part, policy)

    def report(self) -> Metrics:
        """Adapt the length of segments to the gradients since `parts`; return what was found."""
        norms, self.env.gradient_guard.norms = self.env.gradient_guard.norms, None
        if self.adaptive is None or not norms:
            return {}
        steps = [step for norm in norms for step in (norm.flip(0) if norm.ndim > 1 else [norm])]
        found = {"segment_length": float(self.adaptive.length)}
        self.adaptive.update(steps[::-1])
        return found | {"gradient_growth": self.adaptive.growth}

    def loss(self, window: Window, share: Tensor | None = None) -> Tensor:
        """Return `return_loss` plus the penalty on actions outside their bounds.

        Args:
            window: with its graph.
            share: (agent,) weights of the agents' own returns; None for 1.
        """
        if self.individual:
            loss = self._individual_loss(window, share)
        else:
            loss = self.return_loss(window)
        weight = self.config.action_penalty_weight
        if weight == 0 or self.actor.config.squash or self.actor.discrete:
            return loss
        one = torch.ones_like(self.actor.action_space.scale)
        if self.config.action_penalty_on == "means":
            mean = self.actor(window.obs.detach(), actor_past(window))
            action = window.mask_dead_actions(mean)
        else:
            action = self.actor.normalise_action(window.action)
        action = action.where(self.actor.action_space.free, 0.0)
        return loss + weight * action_penalty(action, -one, one)

    def _individual_loss(self, window: Window, share: Tensor | None) -> Tensor:
        """Return the negative return, with each agent's own in the gradient of its weights.

        One backward pass per agent, through whole windows: an agent's weights also matter to it by
        how others react.
        """
        weights = [weight for weight in self.actor.parameters() if weight.requires_grad]
        total, linear = torch.zeros(()), torch.zeros(())
        for agent in range(window.reward.shape[-1]):
            own = self.return_loss(window, agent) * (1 if share is None else share[agent])
            gradients = self._gradients_of(own, agent, weights)
            total = total + own.detach()
            linear = linear + sum(
                (weight * gradient).sum()
                for weight, gradient in zip(weights, gradients, strict=True)
                if gradient is not None
            )
        return total + linear - linear.detach()

    def _gradients_of(
        self, loss: Tensor, agent: int, weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of one agent's loss, through its own weights only."""
        net = self.actor.net
        through = net.only_through(agent) if isinstance(net, HyperNet) else nullcontext()
        with through:
            found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        if isinstance(net, HyperNet):
            return found
        own = {id(weight) for weight in net.parameters()}  # (agent, ...)
        return [
            only_row(gradient, agent) if gradient is not None and id(weight) in own else gradient
            for weight, gradient in zip(weights, found, strict=True)
        ]

    def return_loss(self, window: Window, agent: int | None = None) -> Tensor:
        """Return the negative return of a window with its graph, of all agents or one."""
        value_obs = window.next_obs if window.value_obs is None else window.value_obs
        reward = self.value.reward(window)
        value = self.value.critic.target_after(window.obs, value_obs, critic_past(window))
        if not self.config.bootstrap:
            value = torch.zeros_like(value)
        if agent is not None:
            only = torch.zeros_like(reward[0, 0])
            only[agent] = 1.0
            reward, value = reward * only, value * only
        rest = (reward, value, window.terminated, window.truncated)
        gamma, lam, continue_prob = self.value.gamma, self.config.lam, window.continue_prob
        if lam is None:
            return shac_actor_loss(*rest, gamma=gamma, continue_prob=continue_prob)
        return lambda_actor_loss(*rest, gamma=gamma, lam=lam, continue_prob=continue_prob)


def learns_apart(config: AllActionConfig | PathwiseConfig, actor: ActorConfig, agents: int) -> bool:
    """Return whether each agent's weights follow its own return."""
    own = isinstance(config, PathwiseConfig) and config.credit != "shared"
    generated = isinstance(actor.net, HyperLinearConfig | HyperMLPConfig)
    apart = actor.net.apart and not (generated and actor.net.gru_size > 0)  # one GRU for all
    return own and apart and actor.order == "simultaneous" and agents > 1


def warn_of_opposed_rewards(reward: Tensor) -> bool:
    """Warn if what one agent earns another loses; return whether.

    Args:
        reward: (time, env, agent).
    """
    rows = reward.detach().flatten(0, 1).T
    if rows.shape[1] < 2 or not bool((rows.std(1) > 0).all()):
        return False
    lowest = float(torch.corrcoef(rows).min())
    if lowest < _OPPOSED:
        warnings.warn(
            f"rewards of two agents are opposed (correlation {lowest:.2f}), so that the gradient "
            "of their sum cancels; give each agent weights of its own, as by "
            "ActorConfig(net=SeparateNetConfig()), or --network hyper-mlp",
            stacklevel=2,
        )
    return lowest < _OPPOSED
