"""The policy gradient over all choices of every agent, where actions are choices."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.envs.window import Window
from diffsurrogate.functional.discrete_actions import counterfactual_actions


@runtime_checkable
class PredictsSteps(Protocol):
    """An env whose models say what a step would lead to: `LearnedDiffWrapper`."""

    def predict_step(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, next obs and the chance of going on."""
        ...


def all_choices_loss(
    env: PredictsSteps,
    actor: Actor,
    critic: Critic,
    window: Window,
    *,
    gamma: float,
    reward_unit: Tensor,
) -> Tensor:
    r"""Return the negative one-step return, expected over each agent's choices.

    $-\frac{1}{TE} \sum_{t,e,i,k} \pi_{ik}(o) \, \frac{1}{N} \sum_j [R_j + \gamma c V_j](o, (k,
    a_{-i}))$ with the models' reward R, next observation and chance c of going on: every agent's
    choice is replaced by each other one while the others' stay as they were drawn. No choice needs
    to be sampled for its own gradient, so that the variance is that of the others alone.

    Args:
        env: predicts steps.
        actor: of choices.
        critic: values next observations by its target copy.
        window: what was seen and done.
        gamma: discount.
        reward_unit: a scalar, the size of a reward in the critic's units.
    """
    obs = window.obs.detach().flatten(0, 1)
    action = window.action.detach().flatten(0, 1)
    with torch.no_grad():
        instead = counterfactual_actions(action)  # (agent, choice, batch, agent, choice)
        before = obs.expand(*instead.shape[:3], *obs.shape[1:])
        reward, after, continue_prob = env.predict_step(before, instead)
        value = reward / reward_unit + gamma * continue_prob.unsqueeze(-1) * critic.target(after)
        worth = value.mean(-1).permute(2, 0, 1)  # (batch, agent, choice)
    chances = actor(obs).softmax(-1)
    gain = (chances * worth).sum(-1)
    if window.alive_mask is not None:
        gain = gain.where(window.alive_mask.flatten(0, 1), 0.0)
    return -gain.sum(-1).mean()
