"""Steps of an optimiser: clipped, skipped where they are not finite, annealed; and EMA weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Gradient = list[tuple[nn.Parameter, Tensor]]
"""Of some parameters."""
_Weights = tuple[Tensor, ...] | list[Tensor]


class ClippedAdam:
    """Adam over the weights of a module, with gradient clipping; counts the steps it skipped."""

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        *,
        max_grad_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Take the weights that require a gradient.

        Args:
            module: what is trained.
            lr: learning rate at the start.
            max_grad_norm: a larger gradient is scaled down to this norm.
            betas: Adam's.
            eps: Adam's.
        """
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.skipped = 0
        """Gradients that were not finite, and left out."""
        self.adam = torch.optim.Adam(self.weights, lr=lr, betas=betas, eps=eps, fused=True)

    def step(self, loss: Tensor, extra_grad: Gradient | None = None) -> float:
        """Step down a loss; return the norm of its gradient before clipping.

        Args:
            loss: a scalar.
            extra_grad: added to its gradient.
        """
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        for parameter, gradient in extra_grad or []:
            before = parameter.grad
            parameter.grad = gradient.clone() if before is None else before + gradient
        norm = float(nn.utils.clip_grad_norm_(self.weights, self.max_grad_norm))
        if math.isfinite(norm):
            self.adam.step()
        else:
            self.skipped += 1
        return norm

    def anneal(self, share: float, final_lr: float) -> None:
        """Set the learning rate on the line from the first one to `final_lr`.

        Args:
            share: of the training that is over, in [0, 1].
            final_lr: at its end.
        """
        for group in self.adam.param_groups:
            group["lr"] = self.lr + (final_lr - self.lr) * share

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state and the count of skipped steps."""
        return {"adam": self.adam.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.adam.load_state_dict(state["adam"])
        self.skipped = state["skipped"]


def ema_of(module: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a module whose weights follow it as an exponential moving average.

    The share of itself that it keeps is `decay`, but less as long as that would reach back further
    than about the latest ninth of all updates: a young policy has moved on.
    """

    @torch.no_grad()
    def follow(means: _Weights, weights: _Weights, updates: Tensor | int) -> None:
        kept = min(decay, (1 + float(updates)) / (10 + float(updates)))
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, 1 - kept)

    return AveragedModel(module, multi_avg_fn=follow)
