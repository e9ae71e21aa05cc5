"""What a gradient check found: the verdict on each env, and on the gradient as a whole."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GradientPart:
    """How well the gradient of one quantity, with respect to the actions, agrees."""

    name: str
    """reward (discounted sum) or dynamics (random projection of the last observation)."""
    error: Float[Tensor, " env"]
    """Norm over directions of autograd minus finite difference, relative to the larger of both."""
    off: Bool[Tensor, " env"]
    """The error is above the tolerance, or not finite."""
    unclear: Bool[Tensor, " env"]
    """Off, but the finite differences of different sizes disagree too: perhaps a jump."""
    silent: Bool[Tensor, " env"]
    """Left out: both derivatives are too small to be told from rounding errors."""
    excluded: Bool[Tensor, " env"]
    """Left out: the env was reset within the window."""
    cosine: float
    """Between autograd and finite differences over all checked envs and directions."""
    ratio: float
    """Median over checked envs of autograd / finite difference; 0.5 where half is missing."""
    problem: str | None
    """What is wrong with the gradient as a whole, `all-zero` for example; None if nothing is."""
    pass_fraction: float
    """Share of the checked envs that must agree."""

    @property
    def checked(self) -> Bool[Tensor, " env"]:
        """The env was not left out."""
        return ~(self.silent | self.excluded)

    @property
    def median_error(self) -> float:
        """Over the checked envs; NaN if there is none."""
        return _median(self.error[self.checked])

    @property
    def passed(self) -> bool:
        """No problem as a whole, and enough envs agree."""
        checked = int(self.checked.sum())
        return self.problem is None and int(self.off.sum()) <= (1 - self.pass_fraction) * checked

    def __str__(self) -> str:
        """A line with the figures, then one that names the envs that are off."""
        if self.problem is not None:
            return f"{self.name}: {self.problem}"
        checked, off = int(self.checked.sum()), self.off.nonzero().flatten().tolist()
        text = (
            f"{self.name}: {'ok' if self.passed else 'off'}, {checked - len(off)} of {checked} "
            f"envs agree; median error {self.median_error:.2g}, cosine {self.cosine:.4f}, "
            f"ratio {self.ratio:.3f}"
        )
        if self.silent.any():
            text += f"; {int(self.silent.sum())} left out, their gradient is lost in rounding"
        if off:
            shown = ", ".join(map(str, off[:10])) + (", ..." if len(off) > 10 else "")
            text += f"\n  off: env {shown}"
        if self.unclear.any():
            text += (
                f"; in {int(self.unclear.sum())} of them finite differences disagree too (a jump?)"
            )
        return text


@dataclass(frozen=True, kw_only=True)
class GradientReport:
    """What `check_gradients` found; print it."""

    env: str
    horizon: int
    tolerance: float
    reward: GradientPart
    dynamics: GradientPart

    @property
    def passed(self) -> bool:
        """Both gradients are right."""
        return self.reward.passed and self.dynamics.passed

    def __str__(self) -> str:
        """A verdict, then the two gradients."""
        reset = int(self.reward.excluded.sum())
        return (
            f"gradients of {self.env}: {'PASSED' if self.passed else 'FAILED'} (autograd against "
            f"finite differences, horizon {self.horizon}, tolerance {self.tolerance:g}"
            + (f"; {reset} envs left out, they were reset" if reset else "")
            + f")\n{self.reward}\n{self.dynamics}"
        )


def compare(
    name: str,
    autograd: Float[Tensor, "direction env"],
    numeric: Float[Tensor, "direction env"],
    spread: Float[Tensor, "direction env"],
    noise: Float[Tensor, " env"],
    excluded: Bool[Tensor, " env"],
    *,
    tolerance: float,
    pass_fraction: float,
) -> GradientPart:
    """Judge directional derivatives env by env.

    Args:
        name: reward or dynamics.
        autograd: derivatives to be checked.
        numeric: finite differences.
        spread: how far finite differences of different sizes are apart.
        noise: rounding error of one finite difference.
        excluded: envs to be left out.
        tolerance: relative error above which an env is off.
        pass_fraction: share of the checked envs that must agree.
    """
    larger = torch.maximum(autograd.norm(dim=0), numeric.norm(dim=0))
    error = (autograd - numeric).norm(dim=0) / larger.clamp(min=torch.finfo(larger.dtype).tiny)
    lost = noise * len(autograd) ** 0.5 >= tolerance * larger
    silent = lost & ~excluded
    checked = ~(lost | excluded)
    off = ~(error <= tolerance) & checked
    pair = autograd[:, checked], numeric[:, checked]
    slope = (pair[0] * pair[1]).sum(dim=0) / pair[1].square().sum(dim=0)
    return GradientPart(
        name=name,
        error=error,
        off=off,
        unclear=off & (spread.norm(dim=0) > tolerance * larger),
        silent=silent,
        excluded=excluded,
        cosine=float(torch.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)),
        ratio=_median(slope),
        problem=_problem(autograd[:, ~excluded], int(checked.sum())),
        pass_fraction=pass_fraction,
    )


def _problem(autograd: Float[Tensor, "direction env"], checked: int) -> str | None:
    """Say what is wrong with a gradient even before it is compared."""
    broken = int((~torch.isfinite(autograd).all(dim=0)).sum())
    if broken:
        return f"non-finite in {broken} of {autograd.shape[1]} envs"
    if not autograd.any():
        if checked:
            return f"all-zero, though finite differences in {checked} envs are not"
        return "all-zero, as are finite differences"
    if not checked:
        return "too small in every env to be told from rounding errors"
    return None


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")
