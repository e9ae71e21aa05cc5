"""Discrete actions: one-hot encoding, straight-through gradients and mixup."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def one_hot_argmax(action: Float[Tensor, "*batch act_dim"]) -> Float[Tensor, "*batch act_dim"]:
    """Return the discrete action a simulator executes, the argmax of each row, as one-hot."""
    return functional.one_hot(action.argmax(-1), action.shape[-1]).to(action.dtype)


def straight_through_one_hot(
    action: Float[Tensor, "*batch act_dim"], gradient: Float[Tensor, "*batch act_dim"]
) -> Float[Tensor, "*batch act_dim"]:
    r"""Return `one_hot_argmax(action)` going forward and the gradient of `gradient` going back.

    With the probabilities $\pi$ as `gradient` this is the straight-through estimator
    (arXiv:1308.3432). A function f that is linear in each agent's row passes back
    $\sum_k \nabla\pi_k f(k, a_{-i})$: the gradient of its expectation over the agent's actions,
    given those of the others.
    """
    return one_hot_argmax(action) + (gradient - gradient.detach())


def counterfactual_actions(
    action: Float[Tensor, "*batch agent act_dim"],
) -> Float[Tensor, "agent act_dim *batch agent act_dim"]:
    """Return joint actions in which agent i (first axis) takes action k (second axis) instead."""
    agents, choices = action.shape[-2:]
    others = action.expand(agents, choices, *action.shape).clone()
    every = torch.eye(choices, dtype=action.dtype, device=action.device)
    for agent in range(agents):
        rows = every.view(choices, *[1] * (action.dim() - 2), choices)
        others[agent, ..., agent, :] = rows
    return others


def mixup_loss(
    predict: Callable[[Tensor], Tensor], action: Tensor, generator: torch.Generator
) -> Tensor:
    r"""Return the mixup consistency loss: how far a model is from linear in each agent's action.

    Data contain one-hot actions only, but a straight-through gradient is the model's gradient
    between them. In every sample, one agent's action k is therefore replaced by the mixture
    $\lambda k + (1-\lambda) l$ with a random action l; the loss is the mean squared difference
    between the prediction for the mixture and the mixture of the predictions for k and l.

    Args:
        predict: maps actions like `action` to predictions (batch, ...).
        action: (batch, agent, act_dim), 1 at the action taken and -1 elsewhere (normalised).
        generator: CPU generator, for agents, actions and λ.
    """
    batch, agents, choices = action.shape
    rows = torch.arange(batch)
    agent = torch.randint(agents, (batch,), generator=generator)
    choice = torch.randint(choices, (batch,), generator=generator)
    share = torch.rand(batch, generator=generator).to(action)
    other, mixed = action.clone(), action.clone()
    other[rows, agent] = 2 * functional.one_hot(choice, choices).to(action) - 1
    mixed[rows, agent] = torch.lerp(other[rows, agent], action[rows, agent], share.unsqueeze(-1))
    with torch.no_grad():
        ends = predict(torch.cat([action, other]))
        taken, instead = ends.chunk(2)
        share = share.view(-1, *[1] * (taken.dim() - 1))
        target = torch.lerp(instead, taken, share)
    return (predict(mixed) - target).square().mean()
