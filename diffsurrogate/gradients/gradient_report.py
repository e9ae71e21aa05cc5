"""What a check of an env's gradients finds: errors, envs that are off or left out, the verdict."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOST_OUT_OF_CONTACT = 0.01
"""Largest median error out of contact, for envs that know their contacts."""
MOST_IN_CONTACT = 0.05
"""Largest median error in contact."""
NAMED = 10
"""Envs that are named at most; the worst."""


@dataclass(frozen=True, kw_only=True)
class GradientPart:
    """How well the gradient of one quantity with respect to the actions agrees."""

    name: str
    """reward (discounted sum) or dynamics (random projection of the last observation)."""
    error: Float[Tensor, " env"]
    """Norm over directions of autograd minus finite difference, relative to the larger norm."""
    off: Bool[Tensor, " env"]
    """Checked, and the error is above the tolerance, or not finite."""
    unclear: Bool[Tensor, " env"]
    """The two step sizes that agree best differ by more than the tolerance, as at a jump or a kink.
    Left out where the env knows its contacts."""
    non_finite: Bool[Tensor, " env"]
    """Autograd's gradient is not finite. Left out where the env knows its contacts; else the check
    fails."""
    silent: Bool[Tensor, " env"]
    """Left out: both derivatives are within rounding errors."""
    excluded: Bool[Tensor, " env"]
    """Left out: the env was reset within the window."""
    contact: Bool[Tensor, " env"] | None
    """In contact before or after one of the steps (`MultiAgentVectorEnv.contacts`); None where the
    env does not know."""
    tolerance: float
    """Relative error above which an env is off."""
    cosine: float
    """Cosine of autograd and finite differences over all checked envs and directions."""
    ratio: float
    """Median over checked envs of autograd / finite difference, such as 0.5 if half is missing."""
    problem: str | None
    """A problem of the gradient as a whole, such as `all-zero`; None if there is none."""
    pass_fraction: float
    """Fraction of the checked envs that must agree, where the env knows no contacts."""

    @property
    def checked(self) -> Bool[Tensor, " env"]:
        """The env was not left out."""
        left_out = self.silent | self.excluded
        if self.contact is not None:
            left_out = left_out | self.unclear | self.non_finite
        return ~left_out

    @property
    def median_error(self) -> float:
        """Median error of the checked envs; NaN if there is none."""
        return median(self.error[self.checked])

    @property
    def passed(self) -> bool:
        """Whether there is no problem as a whole and enough envs agree.

        Where the env knows its contacts, instead: the median error is at most 1 % out of contact,
        and 5 % in contact.
        """
        if self.problem is not None:
            return False
        if self.contact is None:
            checked = int(self.checked.sum())
            return int(self.off.sum()) <= (1 - self.pass_fraction) * checked
        return all(
            median(self.error[group]) <= most for _, group, most in self._groups() if group.any()
        )

    def _groups(self) -> list[tuple[str, Tensor, float]]:
        """Return name, checked envs and largest median error of those out of contact, and in it."""
        assert self.contact is not None
        return [
            ("out of contact", self.checked & ~self.contact, MOST_OUT_OF_CONTACT),
            ("in contact", self.checked & self.contact, MOST_IN_CONTACT),
        ]

    def __str__(self) -> str:
        """The figures, then who is left out and who is off."""
        lines = [f"{self.name}: {self.problem or self._summary()}"]
        if self.contact is not None:
            if self.problem is None:
                lines += [self._of(*group) for group in self._groups()]
            lines += self._left_out()
        if self.problem is None and self.off.any():
            lines.append(f"  off: {self._outliers()}")
        return "\n".join(lines)

    def _summary(self) -> str:
        checked, off = int(self.checked.sum()), int(self.off.sum())
        text = f"{'ok' if self.passed else 'off'}, {checked - off} of {checked} envs agree"
        if self.contact is None:
            text += f"; median error {self.median_error:.2g}"
        text += f"{';' if self.contact is not None else ','} cosine {self.cosine:.4f}"
        text += f", ratio {self.ratio:.3f}"
        if self.contact is None and self.silent.any():
            text += f"; {int(self.silent.sum())} left out, their gradient is lost in rounding"
        return text

    def _of(self, name: str, group: Tensor, most: float) -> str:
        """Return the line of the envs in or out of contact."""
        count = int(group.sum())
        if not count:
            return f"  {name}: no env"
        agree = count - int((self.off & group).sum())
        return (
            f"  {name}: median error {median(self.error[group]):.2g} (at most {most:g} passes), "
            f"{agree} of {count} envs within {100 * self.tolerance:g} %"
        )

    def _left_out(self) -> list[str]:
        """Return the line that counts the envs that are left out, each once."""
        reasons = [
            ("not finite", self.non_finite),
            ("finite differences disagree with each other", self.unclear),
            ("lost in rounding", self.silent),
        ]
        told, seen = [], self.excluded
        for reason, envs in reasons:
            envs, seen = envs & ~seen, seen | envs
            if envs.any():
                assert self.contact is not None
                inside = int((envs & self.contact).sum())
                told.append(f"{int(envs.sum())} ({inside} in contact), {reason}")
        return ["  left out: " + "; ".join(told)] if told else []

    def _outliers(self) -> str:
        """Name the envs that are off, the worst first."""
        off = self.off.nonzero().flatten()
        worst = self.error[off].nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)
        named = []
        for env in off[worst][:NAMED].tolist():
            error = f"{float(self.error[env]):.2g}"
            if self.contact is not None:
                error += ", in contact" if self.contact[env] else ", out of contact"
            named.append(f"{env} ({error})")
        text = "env " + ", ".join(named) + (", ..." if len(off) > NAMED else "")
        both = int((self.off & self.unclear).sum())
        if both:
            text += f"; in {both} of them finite differences disagree too (a jump?)"
        return text


@dataclass(frozen=True, kw_only=True)
class GradientReport:
    """The result of `check_gradients`; print it for a summary."""

    env: str
    horizon: int
    warmup: int
    tolerance: float
    reward: GradientPart
    dynamics: GradientPart

    @property
    def passed(self) -> bool:
        """Whether both gradients are right."""
        return self.reward.passed and self.dynamics.passed

    def __str__(self) -> str:
        """The verdict, then both gradients."""
        reset = int(self.reward.excluded.sum())
        return (
            f"gradients of {self.env}: {'PASSED' if self.passed else 'FAILED'} (autograd against "
            f"finite differences, horizon {self.horizon}"
            + (f" after {self.warmup} random steps" if self.warmup else "")
            + f", tolerance {self.tolerance:g}"
            + (f"; {reset} envs left out, they were reset" if reset else "")
            + f")\n{self.reward}\n{self.dynamics}"
        )


def compare(
    name: str,
    autograd: Float[Tensor, "direction env"],
    numeric: Float[Tensor, "direction env"],
    gap: Float[Tensor, "direction env"],
    noise: Float[Tensor, " env"],
    excluded: Bool[Tensor, " env"],
    *,
    tolerance: float,
    pass_fraction: float,
    contact: Bool[Tensor, " env"] | None = None,
) -> GradientPart:
    """Compare directional derivatives env by env.

    Args:
        name: reward or dynamics.
        autograd: derivatives to check.
        numeric: finite differences.
        gap: how much finite differences of two step sizes differ.
        noise: rounding error of one finite difference.
        excluded: envs to leave out.
        tolerance: relative error above which an env is off.
        pass_fraction: fraction of the checked envs that must agree.
        contact: envs in contact, which are judged on their own; None if the env does not know.
    """
    non_finite = ~torch.isfinite(autograd).all(dim=0)
    size = numeric.norm(dim=0)
    larger = torch.maximum(autograd.norm(dim=0), size)
    error = (autograd - numeric).norm(dim=0) / larger.clamp(min=torch.finfo(larger.dtype).tiny)
    lost = noise * len(autograd) ** 0.5 >= tolerance * larger
    unclear = gap.norm(dim=0) > tolerance * size  # whatever autograd says
    unclear = unclear & ~(lost | excluded)
    checked = ~(lost | excluded)
    if contact is not None:
        checked = checked & ~(unclear | non_finite)
    pair = autograd[:, checked], numeric[:, checked]
    ratio = (pair[0] * pair[1]).sum(dim=0) / pair[1].square().sum(dim=0)
    return GradientPart(
        name=name,
        error=error,
        off=~(error <= tolerance) & checked,
        unclear=unclear,
        non_finite=non_finite & ~excluded,
        silent=lost & ~excluded,
        excluded=excluded,
        contact=contact,
        tolerance=tolerance,
        cosine=float(torch.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)),
        ratio=median(ratio),
        problem=_problem(autograd[:, ~excluded], checked, unclear, contact is not None),
        pass_fraction=pass_fraction,
    )


def _problem(
    autograd: Float[Tensor, "direction some"],
    checked: Bool[Tensor, " env"],
    unclear: Bool[Tensor, " env"],
    forgive: bool,
) -> str | None:
    """Describe a problem of a gradient as a whole, or return None.

    Args:
        autograd: of the envs that were not reset.
        checked: envs that were not left out.
        unclear: envs where finite differences disagree.
        forgive: leave single envs that are not finite out.
    """
    finite, count = torch.isfinite(autograd).all(dim=0), int(checked.sum())
    if not finite.all() and not (forgive and finite.any()):
        return f"non-finite in {int((~finite).sum())} of {autograd.shape[1]} envs"
    if not autograd[:, finite].any():
        if count:
            return f"all-zero, though finite differences in {count} envs are not"
        return "all-zero, as are finite differences"
    if forgive and int(unclear.sum()) > count:
        return (
            f"finite differences disagree with each other in {int(unclear.sum())} envs, more than "
            f"the {count} that are left to judge; a shorter horizon may help"
        )
    if not count:
        return "too small in every env to be told from rounding errors"
    return None


def median(values: Tensor) -> float:
    """Return the median, the lower of two; NaN of none."""
    return float(values.median()) if len(values) else float("nan")
