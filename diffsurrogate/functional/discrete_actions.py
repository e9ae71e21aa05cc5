"""Actions that are choices: one-hot rows, the gradient through them, and mixtures of them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def one_hot_argmax(action: Float[Tensor, "*batch choice"]) -> Float[Tensor, "*batch choice"]:
    """Return the choice a simulator takes: the largest entry."""
    return functional.one_hot(action.argmax(-1), action.shape[-1]).to(action.dtype)


def straight_through_one_hot(
    action: Float[Tensor, "*batch choice"], gradient: Float[Tensor, "*batch choice"]
) -> Float[Tensor, "*batch choice"]:
    r"""Return `one_hot_argmax(action)` going forward and the gradient of `gradient` going back.

    With the probabilities $\pi$ as `gradient` this is the straight-through estimator
    (arXiv:1308.3432). A function f that is linear in each agent's row passes back
    $\sum_k \nabla\pi_k f(k, a_{-i})$: the gradient of its expectation over the agent's choices,
    given those of the others.
    """
    return one_hot_argmax(action) + (gradient - gradient.detach())


def counterfactual_actions(
    action: Float[Tensor, "*batch agent choice"],
) -> Float[Tensor, "agent choice *batch agent choice"]:
    """Return what would have been done had agent i (first axis) chosen k (second axis) instead."""
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
    r"""Return how far a model is from linear in each agent's choice, a mean square.

    Data only hold pure choices, between which a network may do anything; but a straight-through
    gradient is its slope there. So for each sample one agent gets a mixture
    $\lambda k + (1-\lambda) l$ of the choice it took and another, and what the model says of it
    is held against the mixture of what it says of both.

    Args:
        predict: maps actions like `action` to predictions (batch, ...).
        action: (batch, agent, choice), with 1 at the choice and -1 elsewhere, as models take them.
        generator: on the CPU, of agents, choices and λ.
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
