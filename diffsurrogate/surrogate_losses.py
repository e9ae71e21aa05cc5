"""What each learned model descends on a minibatch of its cache."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from diffsurrogate.rewards import RewardModel
from diffsurrogate.step_model import StepModel, TerminationModel

Batch = dict[str, Tensor]
Mixtures = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""Takes what predicts from actions, and the actions; returns the error on mixtures of choices."""


def reward_loss(model: RewardModel, batch: Batch, mixtures: Mixtures) -> Tensor:
    """Return the reward model's own loss and that on mixtures, in deviations of the reward."""
    obs, action, next_obs = batch["obs"], batch["action"], batch["next_obs"]

    def predict(action: Tensor) -> Tensor:
        reward: Tensor = model(_as_many(obs, action), action, _as_many(next_obs, action))
        return reward / model.reward_statistics.std

    return model.loss(obs, action, next_obs, batch["reward"]) + mixtures(predict, action)


def step_loss(model: StepModel, batch: Batch, continuous: Tensor, mixtures: Mixtures) -> Tensor:
    """Return the step model's own loss and that on mixtures, in deviations of the changes.

    Only entries count that are `continuous` (agent, obs_dim).
    """
    obs, action = batch["obs"], batch["action"]
    mask = continuous.to(obs.dtype)

    def predict(action: Tensor) -> Tensor:
        after: Tensor = model(_as_many(obs, action), action)
        return after * (mask / model.change_statistics.std)

    return model.loss(obs, action, batch["next_obs"], mask) + mixtures(predict, action)


def termination_loss(
    model: TerminationModel, batch: Batch, rate: float, mixtures: Mixtures
) -> Tensor:
    """Return the cross-entropy, weighted as if both ends were drawn as often as they happen.

    Args:
        model: gives logits.
        batch: with `terminated` (batch,), drawn evenly.
        rate: share of steps that terminate.
        mixtures: error on mixtures of choices, of probabilities.
    """
    obs, action, target = batch["obs"], batch["action"], batch["terminated"]
    drawn = target.mean().clamp(0.01, 0.99)
    weight = torch.where(target > 0, rate / drawn, (1 - rate) / (1 - drawn))

    def predict(action: Tensor) -> Tensor:
        return torch.sigmoid(model(_as_many(obs, action), action))

    loss = binary_cross_entropy_with_logits(model(obs, action), target, weight)
    return loss + mixtures(predict, action)


def _as_many(rows: Tensor, action: Tensor) -> Tensor:
    """Repeat rows until there are as many as of the actions."""
    return rows.repeat(len(action) // len(rows), *[1] * (rows.dim() - 1))
