"""The all-action policy gradient: weights every discrete action by its predicted value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, NoisyPolicy
from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.actor_critic.hidden_states import actor_past, critic_past
from diffsurrogate.algorithms.value_learning import ValueLearning
from diffsurrogate.config import require_range
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import counterfactual_actions


@dataclass(frozen=True, kw_only=True)
class AllActionConfig:
    """All-action policy gradient: over every discrete action, valued one predicted step ahead."""

    minibatches: int = 1
    """Optimiser steps per window, each on a random part of it."""

    def __post_init__(self) -> None:
        require_range(self, "minibatches", low=1.0)


@runtime_checkable
class PredictsSteps(Protocol):
    """An env whose models predict steps: `LearnedDiffWrapper`."""

    def predict_step(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, next observation and the probability of continuing."""
        ...


class AllActionGradient:
    """The all-action policy gradient, with values from one predicted step ahead."""

    adaptive = None
    individual = False
    """Each agent's weights follow the return of all."""

    def __init__(
        self,
        config: AllActionConfig,
        env: MultiAgentVectorEnv,
        actor: Actor,
        value: ValueLearning,
        generator: torch.Generator,
    ) -> None:
        """Check that the env and the actor support it.

        Raises:
            UsageError: actions are continuous, models are missing, or agents act one after another.
        """
        if not env.discrete_actions:
            raise UsageError(
                "AllActionConfig sums over an agent's discrete actions, but this env's actions are "
                "continuous; use PathwiseConfig"
            )
        if actor.config.order != "simultaneous":
            raise UsageError(
                "AllActionConfig varies one agent's action and keeps the others', but with "
                f"order={actor.config.order!r} they depend on it; use PathwiseConfig"
            )
        require_models_if_discrete(env)
        self.config = config
        self.env = env
        self.actor = actor
        self.value = value
        self.generator = generator

    def collect(self, policy: NoisyPolicy, horizon: int) -> Window:
        """Collect a window without a graph."""
        return self.env.collect(policy, horizon)

    def parts(self, window: Window, noise: Tensor) -> Iterator[Window]:
        """Yield the window, or random parts of it."""
        if self.config.minibatches == 1:
            yield window
            return
        for part, _ in minibatches(
            window,
            noise,
            length=window.horizon,
            count=self.config.minibatches,
            generator=self.generator,
        ):
            yield part

    def report(self) -> dict[str, float]:
        """Return nothing: it has no segments to adapt."""
        return {}

    def loss(self, window: Window, share: Tensor | None = None) -> Tensor:
        """Return the negative one-step return, expected over each agent's actions; no `share`."""
        assert isinstance(self.env, PredictsSteps)
        return all_action_loss(
            self.env,
            self.actor,
            self.value.critic,
            window,
            gamma=self.value.gamma,
            reward_unit=self.value.scale.scale,
        )


def all_action_loss(
    env: PredictsSteps,
    actor: Actor,
    critic: Critic,
    window: Window,
    *,
    gamma: float,
    reward_unit: Tensor,
) -> Tensor:
    r"""Return the negative one-step return, expected over each agent's discrete actions.

    $-\frac{1}{TE} \sum_{t,e,i,k} \pi_{ik}(o) \, \frac{1}{N} \sum_j [R_j + \gamma c V_j](o, (k,
    a_{-i}))$ with the models' reward R, next observation and probability c of continuing. Each
    agent's action is varied over all actions while the others' keep their sampled values, so only
    the sampling of the others' actions adds variance.

    Args:
        env: predicts steps.
        actor: a policy with discrete actions.
        critic: its target network values next observations.
        window: observations and actions.
        gamma: discount.
        reward_unit: a scalar, the reward scale by which predicted rewards are divided.
    """
    obs, action = window.obs.detach(), window.action.detach()
    with torch.no_grad():
        varied = counterfactual_actions(action)  # (agent, act_dim, time, env, agent, act_dim)
        before = obs.expand(*varied.shape[:4], *obs.shape[2:])
        reward, after, continue_prob = env.predict_step(before, varied)
        next_value = critic.target_after(obs, after, critic_past(window))
        value = reward / reward_unit + gamma * continue_prob.unsqueeze(-1) * next_value
        action_value = value.mean(-1).permute(2, 3, 0, 1)  # (time, env, agent, act_dim)
    probability = actor(obs, actor_past(window)).softmax(-1)
    expected = (probability * action_value).sum(-1)
    if window.alive_mask is not None:
        expected = expected.where(window.alive_mask, 0.0)
    return -expected.sum(-1).mean()


def require_models_if_discrete(env: MultiAgentVectorEnv) -> None:
    """Refuse discrete actions where reward or dynamics are not learned."""
    if env.discrete_actions and not env.can_replay:
        raise UsageError(
            "discrete actions need learned dynamics and reward, as a simulator passes no gradient "
            "to them; learn both: SHAC(LearnedDiffWrapper(env))"
        )
