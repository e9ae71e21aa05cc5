"""Windows: consecutive steps of many envs, the unit of training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError


@runtime_checkable
class WindowPolicy(Protocol):
    """A policy with noise drawn for a whole window, so that any step can be recomputed."""

    def __call__(self, obs: Tensor) -> Tensor:
        """Act on obs `(env, agent, obs_dim)` at the next step of the window."""
        ...

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        """Act at `step` with its noise; with a slice, `obs` has a leading time axis."""
        ...


@dataclass(frozen=True, kw_only=True)
class Window:
    """`horizon` consecutive steps of every env."""

    obs: Tensor
    """(time, env, agent, obs_dim): the policy's input."""
    action: Tensor
    """(time, env, agent, act_dim): the policy's output, before it is clamped to its bounds."""
    reward: Tensor
    """(time, env, agent)."""
    next_obs: Tensor
    """(time, env, agent, obs_dim): the observation after the step, *before* any autoreset."""
    terminated: Tensor
    """(time, env) bool: the episode reached a terminal state; nothing follows."""
    truncated: Tensor
    """(time, env) bool: the episode was stopped early; its value is bootstrapped."""
    alive_mask: Tensor | None = None
    """(time, env, agent) bool: which agents were alive; None if all always were. Actions of dead
    agents have no effect, and no policy learns from them."""
    value_obs: Tensor | None = None
    """(time, env, agent, obs_dim) where the actor loss evaluates the critic, if not `next_obs`."""
    continue_prob: Tensor | None = None
    """(time, env) `1 - terminated`, with the gradient of the termination model if there is one."""
    actor_hidden: Tensor | None = None
    """(time, env, agent, feature): hidden states of a recurrent policy before each step, zero
    where an episode starts; None of others."""
    critic_hidden: Tensor | None = None
    """The same of a recurrent critic."""

    @classmethod
    def of(
        cls, steps: Sequence[Mapping[str, Tensor]], alive_mask: Sequence[Tensor | None]
    ) -> "Window":
        """Stack consecutive steps to a window.

        Args:
            steps: the fields of a window but `alive_mask`, without time axis, for each step.
            alive_mask: (env, agent) bool for each step; None if all agents were alive.
        """
        stacked = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        return cls(**stacked, alive_mask=_stack_alive(alive_mask, stacked["reward"]))

    @classmethod
    def join(cls, windows: Sequence["Window"]) -> "Window":
        """Put windows of the same envs one after another in time."""
        if len(windows) == 1:
            return windows[0]
        if any(window.alive_mask is not None for window in windows):
            windows = [window.with_alive_mask() for window in windows]
        given = [field.name for field in fields(cls) if getattr(windows[0], field.name) is not None]
        return cls(**{name: torch.cat([getattr(w, name) for w in windows]) for name in given})

    def with_alive_mask(self) -> "Window":
        """Return the window with an alive mask, of ones if it has none."""
        if self.alive_mask is not None:
            return self
        return replace(self, alive_mask=torch.ones_like(self.reward, dtype=torch.bool))

    @property
    def horizon(self) -> int:
        """Number of steps."""
        return len(self.reward)

    @property
    def ended(self) -> Tensor:
        """(time, env) bool: the env was reset after this step."""
        return self.terminated | self.truncated

    def mask_dead_actions(self, action: Tensor, step: int | slice = slice(None)) -> Tensor:
        """Detach dead agents' actions `(*any, agent, act_dim)`, of one step or all."""
        return mask_dead_actions(action, None if self.alive_mask is None else self.alive_mask[step])

    def segments(self, length: int) -> "Window":
        """Split into segments of `length` steps: (length, segment, ...)."""
        return self.each(lambda values: cut(values, length))

    def chosen(self, envs: Tensor) -> "Window":
        """Select envs, or segments, by index."""
        return self.each(lambda values: values[:, envs])

    @property
    def finite_envs(self) -> Tensor:
        """(env,) bool: envs all of whose observations, actions and rewards are finite."""
        parts = (self.obs, self.action, self.reward, self.next_obs)
        if all(bool(part.detach().sum().isfinite()) for part in parts):
            return torch.ones_like(self.ended[0])
        return torch.stack([x.isfinite().transpose(0, 1).flatten(1).all(1) for x in parts]).all(0)

    def finite_part(self) -> "Window":
        """Leave out the envs that `finite_envs` does not have."""
        finite = self.finite_envs
        return self if bool(finite.all()) else self.chosen(finite.nonzero().squeeze(-1))

    def first_not_finite(self) -> str:
        """Say where a value is not finite: "the reward of env 3 at step 7 of the window is nan"."""
        parts = {"reward": self.reward, "observation": self.next_obs, "action": self.action}
        for field, part in (parts | {"first observation": self.obs}).items():
            for time, env, *place in (~part.isfinite()).nonzero()[:1].tolist():
                value = part[time, env, *place].item()
                return f"the {field} of env {env} at step {time} of the window is {value}"
        raise ValueError("every value is finite")

    def summary(self) -> dict[str, float]:
        """Return metrics every trainer logs: mean reward, and how many episodes ended."""
        return {
            "reward": float(self.reward.mean()),
            "episodes_ended": float(self.ended.sum()),
            "episodes_terminated": float(self.terminated.sum()),
        }

    def detach(self) -> "Window":
        """Return the window without its graph."""
        return self.each(lambda tensor: tensor.detach())

    def to(self, device: torch.device) -> "Window":
        """Move the window to a device."""
        return self.each(lambda tensor: tensor.to(device))

    def float32(self) -> "Window":
        """Return the window with numbers of float32, as models take them; flags stay."""
        return self.each(lambda tensor: tensor if tensor.dtype == torch.bool else tensor.float())

    def each(self, change: Callable[[Tensor], Tensor]) -> "Window":
        """Apply a function to every tensor of the window."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in tensors.items() if v is not None})


class GradientGuard:
    """Drops the gradients of envs in which they are not finite, and counts them.

    In an action's gradient everything that comes after the action is added up; an env whose sum is
    not finite would otherwise spoil the weights' gradient for all.
    """

    def __init__(self) -> None:
        """Start at none."""
        self.dropped = torch.zeros((), dtype=torch.long)
        """Actions, or steps of an env, with a gradient that was dropped."""
        self.active = True
        self.norms: list[Tensor] | None = None
        """(*any, env) norms of actions' gradients since it was set to a list, the last step's
        first; None to keep none."""

    def watch(self, action: Tensor) -> Tensor:
        """Return an action `(*any, env, agent, act_dim)`, whose gradient is watched."""
        if action.requires_grad and self.active:
            action = action.view_as(action)  # the hook must not see other uses of the tensor
            action.register_hook(self._finite)
        return action

    def finite_rows(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients `(env, ...)` of one step; an env's are all 0 if one is not finite.

        For simulators that compute them outside of autograd.
        """
        if not self.active:
            return list(gradients)
        finite = torch.stack([x.isfinite().reshape(len(x), -1).all(1) for x in gradients]).all(0)
        self.dropped = self.dropped.to(finite.device) + (~finite).sum()
        return [torch.where(finite.view(-1, *[1] * (x.dim() - 1)), x, 0.0) for x in gradients]

    def _finite(self, gradient: Tensor) -> Tensor:
        finite = gradient.isfinite().flatten(-2).all(-1)
        self.dropped = self.dropped.to(finite.device) + (~finite).sum()
        gradient = torch.where(finite[..., None, None], gradient, 0.0)
        if self.norms is not None:
            self.norms.append(gradient.flatten(-2).norm(dim=-1))
        return gradient


def step_of(
    obs: Tensor,
    action: Tensor,
    result: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]],
) -> dict[str, Tensor]:
    """Return one step's fields for `Window.of`.

    Args:
        obs: (env, agent, obs_dim) before the step.
        action: (env, agent, act_dim).
        result: returned by the env's `step`.
    """
    _, reward, terminated, truncated, info = result
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "next_obs": info["final_obs"],
        "terminated": terminated,
        "truncated": truncated,
    }


def mask_dead_actions(action: Tensor, alive_mask: Tensor | None) -> Tensor:
    """Detach the actions `(*any, agent, act_dim)` of dead agents.

    Args:
        action: of all agents.
        alive_mask: (*any, agent) bool; None if all are alive.
    """
    if alive_mask is None:
        return action
    return torch.where(alive_mask.unsqueeze(-1), action, action.detach())


def _stack_alive(steps: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Return the alive mask (time, env, agent), shaped as `like`; None if all always were."""
    if all(step is None for step in steps):
        return None
    everyone = torch.ones_like(like[0], dtype=torch.bool)
    return torch.stack([everyone if step is None else step for step in steps])


def check_horizon(horizon: int) -> None:
    """Refuse a horizon below one step, or with a part of one."""
    if isinstance(horizon, float):
        raise UsageError(f"horizon is {horizon}; it must be a whole number of steps")
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}; a window needs at least 1 step")


def check_window(window: Any, sizes: tuple[int, int, int]) -> None:
    """Refuse data that models for (agents, obs_dim, act_dim) `sizes` cannot learn from.

    Raises:
        UsageError: it is no window, or of an env with other sizes.
    """
    if not isinstance(window, Window):
        raise UsageError(
            f"cannot fit a {type(window).__name__}; turn recorded episodes into Windows by "
            "diffsurrogate.data.recordings.windows_from_minari"
        )
    given = (*window.obs.shape[2:], window.action.shape[-1])
    if given != sizes:
        raise UsageError(
            f"the data have (agents, obs_dim, act_dim) = {given}, this env {sizes}; record "
            "them on the same kind of env"
        )


def cut(values: Tensor, length: int) -> Tensor:
    """Split (time, env, ...) into segments of `length` steps: (length, segment, ...)."""
    return values.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)
