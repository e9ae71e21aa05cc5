"""Checks an env's autograd gradients against finite differences.

The envs of a batch are independent, so one perturbed rollout gives one directional derivative per
env.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.window import Window, check_horizon
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.gradient_report import GradientPart, GradientReport, compare

STEP_SIZES = (0.04, 0.01, 0.0025)
"""Finite-difference step sizes in normalised actions, each a quarter of the previous one."""
ROUNDING = 2 * torch.finfo(torch.float32).eps
"""Expected relative error of a sum computed by a float32 simulation."""
WARMUP = 30
"""Random steps before the window, of envs whose bodies have joints: half a second or so."""


def check_gradients(
    env: MultiAgentVectorEnv,
    *,
    horizon: int | None = None,
    directions: int = 3,
    gamma: float = 0.99,
    tolerance: float = 0.05,
    pass_fraction: float = 0.9,
    warmup: int | None = None,
    seed: int = 0,
) -> GradientReport:
    """Compare an env's gradients with finite differences, under random actions.

    Checks the derivatives, with respect to the whole action sequence, of each env's discounted
    reward summed over agents and of a random projection of its last observation. Central
    differences of three step sizes are extrapolated (Richardson); each env uses the pair of step
    sizes that agrees best. Near discontinuities some envs legitimately differ: hence
    `pass_fraction`. Costs 19 rollouts and two backward passes. The env's state is restored; an env
    that was never reset is left as after `reset(seed=seed)`.

    An env that knows its contacts (`MultiAgentVectorEnv.contacts`) is judged by median errors
    instead, of the envs out of contact (at most 1 %) and of those in contact (5 %), before or after
    any step of the window. Where finite differences disagree with themselves, as where a contact
    begins, and where the gradient is not finite, the env is counted and left out.

    Args:
        env: made with `differentiable=True`, or a LearnedDiffWrapper, whose models are then
            compared with the simulator.
        horizon: steps of the window; None for 8, or 1 if the env knows its contacts: over more, one
            begins or ends nearly everywhere.
        directions: number of random perturbations of the action sequence.
        gamma: discount of the rewards.
        tolerance: relative error above which an env is off.
        pass_fraction: fraction of the checked envs that must agree.
        warmup: steps with random actions before the window. None for 0, or 30 if the env is
            `articulated`, within its time limit: such envs start near one pose.
        seed: of the initial states, actions and directions.

    Returns:
        the report: `passed`, `reward`, `dynamics`, and a summary when printed.

    Raises:
        UsageError: an argument is out of range, every env was reset within the window, or the env
            cannot save its state.
    """
    if horizon is not None:
        check_horizon(horizon)
    if warmup is not None and warmup < 0:
        raise UsageError(f"warmup is {warmup}; a number of steps of at least 0 is needed")
    if directions < 1:
        raise UsageError(f"directions is {directions}; at least 1 is needed")
    if not (tolerance > 0 and 0 < pass_fraction <= 1):
        raise UsageError(
            f"tolerance is {tolerance} and pass_fraction {pass_fraction}; a tolerance above 0 and "
            "a fraction in (0, 1] are needed"
        )
    before = _state_of(env) if env._current is not None else None
    env.reset(seed=seed)
    try:
        if horizon is None:
            horizon = 8 if env.contacts() is None else 1
        if warmup is None:
            warmup = _usual_warmup(env, horizon)
        _warm_up(env, warmup, seed)
        probe = _Probe(env, horizon, gamma, seed)
        reward, dynamics = probe.measure(directions, tolerance, pass_fraction)
    finally:
        if before is not None:
            env.set_state(before)
    return GradientReport(
        env=env.name_in_errors,
        horizon=horizon,
        warmup=warmup,
        tolerance=tolerance,
        reward=reward,
        dynamics=dynamics,
    )


def _state_of(env: MultiAgentVectorEnv) -> State:
    try:
        return env.state()
    except NotImplementedError as error:
        raise UsageError(
            "check_gradients steps from the same state again and again, but "
            f"{env.name_in_errors} cannot save one: {error}"
        ) from error


def _usual_warmup(env: MultiAgentVectorEnv, horizon: int) -> int:
    """Return how many steps to take before a window that shall end before the time limit."""
    if not env.articulated:
        return 0
    return WARMUP if env.max_steps is None else max(0, min(WARMUP, env.max_steps - horizon - 1))


def _warm_up(env: MultiAgentVectorEnv, steps: int, seed: int) -> None:
    """Take random steps; envs that end are reset."""
    generator = torch.Generator().manual_seed(seed)  # of its own: 0 steps change nothing
    shape = (env.num_envs, env.num_agents, env.act_dim)
    with torch.no_grad(), env.restarting_broken():
        for _ in range(steps):
            share = torch.rand(shape, generator=generator).to(env.device)
            env.step(torch.lerp(env.action_low.expand(shape), env.action_high.expand(shape), share))


def extrapolate(
    slopes: Float[Tensor, "size *shape"], shrink: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""Return the best estimate of a derivative, and how much two step sizes differ.

    Central differences have an error of $c h^2$, so with step sizes h and h/q the estimate
    $(q^2 D_{h/q} - D_h) / (q^2 - 1)$ has one of $O(h^4)$ (Richardson). The two successive step
    sizes that differ least are used: large h suffers from curvature, small h from rounding. At a
    jump none agree.

    Args:
        slopes: central differences, with step sizes decreasing along the first axis.
        shrink: q, the ratio of successive step sizes.
    """
    best = (slopes[1:] - slopes[:-1]).abs().argmin(dim=0, keepdim=True)
    coarse, fine = slopes[:-1].gather(0, best), slopes[1:].gather(0, best)
    estimate = (shrink**2 * fine - coarse) / (shrink**2 - 1)
    return estimate.squeeze(0), (coarse - fine).abs().squeeze(0)


class _OpenLoop:
    """A `WindowPolicy` that returns given actions (time, env, agent, act_dim)."""

    def __init__(self, actions: Tensor, before: Callable[[], None] | None = None) -> None:
        self.actions = actions
        self.before = before
        self.next = 0

    def __call__(self, obs: Tensor) -> Tensor:
        if self.before is not None:
            self.before()
        self.next += 1
        return self.actions[self.next - 1]

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        return self.actions[step]


class _Probe:
    """One window, rerun from the same state with perturbed actions."""

    def __init__(self, env: MultiAgentVectorEnv, horizon: int, gamma: float, seed: int) -> None:
        self.env = env
        self.start = _state_of(env)
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = (horizon, env.num_envs, env.num_agents, env.act_dim)
        self.half_width = (env.action_high - env.action_low) / 2
        inner_half = torch.rand(self.shape, generator=self.generator).to(env.device) - 0.5
        self.actions = (env.action_high + env.action_low) / 2 + inner_half * self.half_width
        self.discount = gamma ** torch.arange(horizon, device=env.device).double()
        projection = torch.randn(env.num_agents, env.obs_dim, generator=self.generator)
        self.projection = projection.to(env.device).double()
        self.ended = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        self.contact: Tensor | None = None

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
        autograd, numeric, gap = (torch.stack(r, dim=1) for r in zip(*rows, strict=True))
        parts = []
        for k, name in enumerate(("reward", "dynamics")):
            part = compare(
                name,
                autograd[k],
                numeric[k],
                gap[k],
                noise[k],
                self.ended,
                tolerance=tolerance,
                pass_fraction=pass_fraction,
                contact=self.contact,
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
        self.env.gradient_guard.active = False  # what is not finite is to be reported
        try:
            window = self._run(actions, before=self._note_contacts)
            gradients = [
                torch.autograd.grad(q.sum(), actions, retain_graph=True, allow_unused=True)[0]
                if q.requires_grad
                else None
                for q in self._quantities(window, self.projection)
            ]
        finally:
            self.env.gradient_guard.active = True
        self._note_contacts()  # after the last step
        window = window.detach()
        absolute = replace(window, reward=window.reward.abs(), next_obs=window.next_obs.abs())
        size = torch.stack(self._quantities(absolute, self.projection.abs()))
        dense = [torch.zeros_like(actions) if g is None else g for g in gradients]
        return torch.stack(dense).double(), size, [g is not None for g in gradients]

    def _note_contacts(self) -> None:
        """Add the envs that are in contact now, if the env knows them."""
        touching = self.env.contacts()
        if touching is not None:
            self.contact = touching if self.contact is None else self.contact | touching

    @torch.no_grad()
    def _slope(self, direction: Tensor, size: float) -> Tensor:
        """Return central differences (2, env) along `direction`."""
        ahead, behind = (
            torch.stack(self._quantities(self._run(self.actions + h * direction), self.projection))
            for h in (size, -size)
        )
        return (ahead - behind) / (2 * size)

    def _run(self, actions: Tensor, before: Callable[[], None] | None = None) -> Window:
        """Take the actions from the start; `before` is called before each step."""
        self.env.set_state(self.start)
        window = self.env.rollout(_OpenLoop(actions, before), len(actions))
        self.ended |= window.ended.any(dim=0)
        return window

    def _quantities(self, window: Window, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discounted reward and the projected last observation, each (env,) float64."""
        reward = torch.einsum("t,tea->e", self.discount, window.reward.double())
        dynamics = torch.einsum("eao,ao->e", window.next_obs[-1].double(), projection)
        return reward, dynamics
