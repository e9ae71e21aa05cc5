"""Optimiser steps with gradient clipping and annealing, their reports, and EMA weights."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffsurrogate.distributed import average_gradients

Gradient = list[tuple[nn.Parameter, Tensor]]
"""Gradients of some parameters."""
_Weights = tuple[Tensor, ...] | list[Tensor]


class ClippedAdam:
    """Adam with gradient clipping; skips and counts gradients that are not finite.

    In data-parallel training, gradients are first averaged over the ranks. A step reads nothing
    back from the device.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        *,
        max_grad_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Optimise the weights that require a gradient.

        Args:
            module: the module to train.
            lr: initial learning rate.
            max_grad_norm: larger gradients are scaled down to this norm.
            betas: Adam's.
            eps: Adam's.
        """
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self._skipped = torch.zeros((), device=self.weights[0].device)
        self.adam = torch.optim.Adam(self.weights, lr=lr, betas=betas, eps=eps, fused=True)

    @property
    def skipped(self) -> int:
        """Number of skipped gradients."""
        return int(self._skipped)

    def count_skipped(self) -> None:
        """Count a gradient that was left out before any step."""
        self._skipped += 1

    def step(
        self,
        loss: Tensor,
        extra_grad: Gradient | None = None,
        *,
        rows: int = 1,
        along: Tensor | None = None,
    ) -> Tensor:
        """Minimise a loss by one step; return its gradient norm before clipping, a scalar.

        Args:
            loss: a scalar.
            extra_grad: added to the loss's gradient; the same on all ranks.
            rows: of which the loss is the mean, where ranks may have more or fewer.
            along: another mean of them, a scalar that becomes that of all ranks.
        """
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.weights, rows, along)
        for parameter, gradient in extra_grad or []:
            before = parameter.grad
            parameter.grad = gradient.clone() if before is None else before + gradient
        norm = nn.utils.clip_grad_norm_(self.weights, self.max_grad_norm)
        broken = (~norm.isfinite()).float()
        # as GradScaler does: a fused Adam leaves weights and moments alone where this is 1
        self.adam.grad_scale, self.adam.found_inf = None, broken  # type: ignore[attr-defined]
        self.adam.step()
        self._skipped += broken
        return norm

    def anneal(self, share: float, final_lr: float) -> None:
        """Interpolate the learning rate linearly between the initial one and `final_lr`.

        Args:
            share: progress of the training, in [0, 1].
            final_lr: learning rate at its end.
        """
        for group in self.adam.param_groups:
            group["lr"] = self.lr + (final_lr - self.lr) * share

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state and the count of skipped steps."""
        return {"adam": self.adam.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.adam.load_state_dict(state["adam"])
        self._skipped.fill_(state["skipped"])


def mean_report(reports: list[dict[str, Tensor]]) -> dict[str, float]:
    """Return the mean of each metric, a scalar, over optimiser steps; read back at once."""
    if not reports:
        return {}
    rows = torch.stack([torch.stack(list(report.values())) for report in reports]).double()
    return dict(zip(reports[0], rows.mean(0).tolist(), strict=True))


def ema_of(module: nn.Module, decay: float) -> AveragedModel:
    r"""Return a copy of a module with the exponential moving average (EMA) of its weights.

    The decay at update $u$ is $\min(decay, (1 + u) / (10 + u))$, so that the EMA follows faster in
    early training.
    """
    return AveragedModel(module, multi_avg_fn=functools.partial(_follow, decay))


@torch.no_grad()
def _follow(decay: float, means: _Weights, weights: _Weights, updates: Tensor | int) -> None:
    effective = min(decay, (1 + float(updates)) / (10 + float(updates)))
    for mean, weight in zip(means, weights, strict=True):
        mean.lerp_(weight, 1 - effective)
