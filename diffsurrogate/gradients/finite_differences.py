"""Checks an env's autograd gradients against finite differences.

The envs of a batch are independent, so one perturbed rollout gives one directional derivative per
env.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window, check_horizon
from diffsurrogate.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GradientPart:
    """How well the gradient of one quantity with respect to the actions agrees."""

    name: str
    """reward (discounted sum) or dynamics (random projection of the last observation)."""
    error: Float[Tensor, " env"]
    """Norm over directions of autograd minus finite difference, relative to the larger norm."""
    off: Bool[Tensor, " env"]
    """The error is above the tolerance, or not finite."""
    unclear: Bool[Tensor, " env"]
    """Off, but finite differences of different step sizes disagree too, as at a discontinuity."""
    silent: Bool[Tensor, " env"]
    """Left out: both derivatives are within rounding errors."""
    excluded: Bool[Tensor, " env"]
    """Left out: the env was reset within the window."""
    cosine: float
    """Cosine of autograd and finite differences over all checked envs and directions."""
    ratio: float
    """Median over checked envs of autograd / finite difference, such as 0.5 if half is missing."""
    problem: str | None
    """A problem of the gradient as a whole, such as `all-zero`; None if there is none."""
    pass_fraction: float
    """Fraction of the checked envs that must agree."""

    @property
    def checked(self) -> Bool[Tensor, " env"]:
        """The env was not left out."""
        return ~(self.silent | self.excluded)

    @property
    def median_error(self) -> float:
        """Median error of the checked envs; NaN if there is none."""
        return _median(self.error[self.checked])

    @property
    def passed(self) -> bool:
        """Whether there is no problem as a whole and enough envs agree."""
        checked = int(self.checked.sum())
        return self.problem is None and int(self.off.sum()) <= (1 - self.pass_fraction) * checked

    def __str__(self) -> str:
        """One line with the figures, and one that lists the envs that are off."""
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
    """The result of `check_gradients`; print it for a summary."""

    env: str
    horizon: int
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
    """Compare directional derivatives env by env.

    Args:
        name: reward or dynamics.
        autograd: derivatives to check.
        numeric: finite differences.
        spread: range of finite differences of different step sizes.
        noise: rounding error of one finite difference.
        excluded: envs to leave out.
        tolerance: relative error above which an env is off.
        pass_fraction: fraction of the checked envs that must agree.
    """
    larger = torch.maximum(autograd.norm(dim=0), numeric.norm(dim=0))
    error = (autograd - numeric).norm(dim=0) / larger.clamp(min=torch.finfo(larger.dtype).tiny)
    lost = noise * len(autograd) ** 0.5 >= tolerance * larger
    silent = lost & ~excluded
    checked = ~(lost | excluded)
    off = ~(error <= tolerance) & checked
    pair = autograd[:, checked], numeric[:, checked]
    ratio = (pair[0] * pair[1]).sum(dim=0) / pair[1].square().sum(dim=0)
    return GradientPart(
        name=name,
        error=error,
        off=off,
        unclear=off & (spread.norm(dim=0) > tolerance * larger),
        silent=silent,
        excluded=excluded,
        cosine=float(torch.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)),
        ratio=_median(ratio),
        problem=_problem(autograd[:, ~excluded], int(checked.sum())),
        pass_fraction=pass_fraction,
    )


def _problem(autograd: Float[Tensor, "direction env"], checked: int) -> str | None:
    """Describe a problem of a gradient as a whole, or return None."""
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


STEP_SIZES = (0.04, 0.01, 0.0025)
"""Finite-difference step sizes in normalised actions, each a quarter of the previous one."""
ROUNDING = 2 * torch.finfo(torch.float32).eps
"""Expected relative error of a sum computed by a float32 simulation."""


def check_gradients(
    env: MultiAgentVectorEnv,
    *,
    horizon: int = 8,
    directions: int = 3,
    gamma: float = 0.99,
    tolerance: float = 0.05,
    pass_fraction: float = 0.9,
    seed: int = 0,
) -> GradientReport:
    """Compare an env's gradients with finite differences, from initial states and random actions.

    Checks the derivatives, with respect to the whole action sequence, of each env's discounted
    reward summed over agents and of a random projection of its last observation. Central
    differences of three step sizes are extrapolated (Richardson); each env uses the pair of step
    sizes that agrees best. Near contacts and discontinuities some envs legitimately differ: hence
    `pass_fraction`. Costs 19 rollouts and two backward passes. The env's state is restored; an env
    that was never reset is left as after `reset(seed=seed)`.

    Args:
        env: made with `differentiable=True`, or a LearnedDiffWrapper, whose models are then
            compared with the simulator.
        horizon: steps of the window.
        directions: number of random perturbations of the action sequence.
        gamma: discount of the rewards.
        tolerance: relative error above which an env is off.
        pass_fraction: fraction of the checked envs that must agree.
        seed: of the initial states, actions and directions.

    Returns:
        the report: `passed`, `reward`, `dynamics`, and a summary when printed.

    Raises:
        UsageError: an argument is out of range, every env was reset within the window, or the env
            cannot save its state.
    """
    check_horizon(horizon)
    if directions < 1:
        raise UsageError(f"directions is {directions}; at least 1 is needed")
    if not (tolerance > 0 and 0 < pass_fraction <= 1):
        raise UsageError(
            f"tolerance is {tolerance} and pass_fraction {pass_fraction}; a tolerance above 0 and "
            "a fraction in (0, 1] are needed"
        )
    before = env.state() if env._current is not None else None
    env.reset(seed=seed)
    try:
        probe = _Probe(env, horizon, gamma, seed)
        reward, dynamics = probe.measure(directions, tolerance, pass_fraction)
    finally:
        if before is not None:
            env.set_state(before)
    return GradientReport(
        env=type(env).__name__,
        horizon=horizon,
        tolerance=tolerance,
        reward=reward,
        dynamics=dynamics,
    )


def extrapolate(
    slopes: Float[Tensor, "size *shape"], shrink: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""Return the best estimate of a derivative, and the range of the central differences.

    Central differences have an error of $c h^2$, so with step sizes h and h/q the estimate
    $(q^2 D_{h/q} - D_h) / (q^2 - 1)$ has one of $O(h^4)$ (Richardson). The two successive step
    sizes that differ least are used: large h suffers from curvature, small h from rounding.

    Args:
        slopes: central differences, with step sizes decreasing along the first axis.
        shrink: q, the ratio of successive step sizes.
    """
    best = (slopes[1:] - slopes[:-1]).abs().argmin(dim=0, keepdim=True)
    coarse, fine = slopes[:-1].gather(0, best), slopes[1:].gather(0, best)
    estimate = (shrink**2 * fine - coarse) / (shrink**2 - 1)
    return estimate.squeeze(0), slopes.amax(dim=0) - slopes.amin(dim=0)


class _OpenLoop:
    """A `WindowPolicy` that returns given actions (time, env, agent, act_dim)."""

    def __init__(self, actions: Tensor) -> None:
        self.actions = actions
        self.next = 0

    def __call__(self, obs: Tensor) -> Tensor:
        self.next += 1
        return self.actions[self.next - 1]

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        return self.actions[step]


class _Probe:
    """One window, rerun from the same state with perturbed actions."""

    def __init__(self, env: MultiAgentVectorEnv, horizon: int, gamma: float, seed: int) -> None:
        self.env = env
        self.start = env.state()
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = (horizon, env.num_envs, env.num_agents, env.act_dim)
        self.half_width = (env.action_high - env.action_low) / 2
        inner_half = torch.rand(self.shape, generator=self.generator).to(env.device) - 0.5
        self.actions = (env.action_high + env.action_low) / 2 + inner_half * self.half_width
        self.discount = gamma ** torch.arange(horizon, device=env.device).double()
        projection = torch.randn(env.num_agents, env.obs_dim, generator=self.generator)
        self.projection = projection.to(env.device).double()
        self.ended = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)

    def measure(
        self, directions: int, tolerance: float, pass_fraction: float
    ) -> tuple[GradientPart, GradientPart]:
        """Run all rollouts; return the comparison for reward and for dynamics."""
        gradients, size, linked = self._autograd()
        noise = ROUNDING * size / STEP_SIZES[1]
        rows = []
        for _ in range(directions):
            draw = torch.randn(self.shape, generator=self.generator).to(self.env.device)
            direction = draw * self.half_width
            slopes = torch.stack([self._slope(direction, h) for h in STEP_SIZES])
            exact = (gradients * direction).sum(dim=(1, 3, 4))
            rows.append((exact, *extrapolate(slopes, STEP_SIZES[0] / STEP_SIZES[1])))
        if self.ended.all():
            raise UsageError(
                f"every env was reset within {self.shape[0]} steps, so there is no gradient to "
                "check; give a shorter horizon"
            )
        autograd, numeric, spread = (torch.stack(r, dim=1) for r in zip(*rows, strict=True))
        parts = []
        for k, name in enumerate(("reward", "dynamics")):
            part = compare(
                name,
                autograd[k],
                numeric[k],
                spread[k],
                noise[k],
                self.ended,
                tolerance=tolerance,
                pass_fraction=pass_fraction,
            )
            if not linked[k]:
                part = replace(
                    part, problem=f"{part.problem} (it has no graph back to the actions)"
                )
            parts.append(part)
        return parts[0], parts[1]

    @torch.enable_grad()
    def _autograd(self) -> tuple[Tensor, Tensor, list[bool]]:
        """Return gradients (2, *actions), magnitudes (2, env), and which have a graph."""
        actions = self.actions.clone().requires_grad_()
        window = self._run(actions)
        gradients = [
            torch.autograd.grad(q.sum(), actions, retain_graph=True, allow_unused=True)[0]
            if q.requires_grad
            else None
            for q in self._quantities(window, self.projection)
        ]
        window = window.detach()
        absolute = replace(window, reward=window.reward.abs(), next_obs=window.next_obs.abs())
        size = torch.stack(self._quantities(absolute, self.projection.abs()))
        dense = [torch.zeros_like(actions) if g is None else g for g in gradients]
        return torch.stack(dense).double(), size, [g is not None for g in gradients]

    @torch.no_grad()
    def _slope(self, direction: Tensor, size: float) -> Tensor:
        """Return central differences (2, env) along `direction`."""
        ahead, behind = (
            torch.stack(self._quantities(self._run(self.actions + h * direction), self.projection))
            for h in (size, -size)
        )
        return (ahead - behind) / (2 * size)

    def _run(self, actions: Tensor) -> Window:
        self.env.set_state(self.start)
        self.env.gradient_guard.active = False  # what is not finite is to be reported
        try:
            window = self.env.rollout(_OpenLoop(actions), len(actions))
        finally:
            self.env.gradient_guard.active = True
        self.ended |= window.ended.any(dim=0)
        return window

    def _quantities(self, window: Window, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discounted reward and the projected last observation, each (env,) float64."""
        reward = torch.einsum("t,tea->e", self.discount, window.reward.double())
        dynamics = torch.einsum("eao,ao->e", window.next_obs[-1].double(), projection)
        return reward, dynamics
