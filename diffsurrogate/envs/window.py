"""Windows: some steps of many envs, the unit that trainers and surrogates learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError


@runtime_checkable
class WindowPolicy(Protocol):
    """A policy whose noise was drawn for a whole window, so that any step can be run again."""

    def __call__(self, obs: Tensor) -> Tensor:
        """Act on obs `(env, agent, obs_dim)` at the next step of the window."""
        ...

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        """Act at `step` with the noise of `step`; with a slice, `obs` has a leading time axis."""
        ...


@dataclass(frozen=True, kw_only=True)
class Window:
    """`horizon` consecutive steps of every env; the unit all trainers and surrogates learn from."""

    obs: Tensor
    """(time, env, agent, obs_dim): what the policy saw."""
    action: Tensor
    """(time, env, agent, act_dim): what the policy gave, before it is clamped to the box."""
    reward: Tensor
    """(time, env, agent)."""
    next_obs: Tensor
    """(time, env, agent, obs_dim): the observation the step led to, *before* any autoreset."""
    terminated: Tensor
    """(time, env) bool: the episode ended by state; there is no future."""
    truncated: Tensor
    """(time, env) bool: the episode was cut; the future exists but is not seen."""
    alive_mask: Tensor | None = None
    """(time, env, agent) bool: who was there to act; None where all always are. What is given as
    the action of the others changes nothing, and no policy learns from it."""
    value_obs: Tensor | None = None
    """(time, env, agent, obs_dim) where the actor's value is taken, if not at `next_obs`."""
    continue_prob: Tensor | None = None
    """(time, env) `1 - terminated` with the gradient of a termination model, if there is one."""

    @classmethod
    def of(
        cls, steps: Sequence[Mapping[str, Tensor]], alive_mask: Sequence[Tensor | None]
    ) -> "Window":
        """Return steps, one after another, as a window.

        Args:
            steps: of each step what the fields of a window say, but `alive_mask`, without time
                axis.
            alive_mask: of each step (env, agent) bool, who was there; None where all were.
        """
        columns = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        return cls(**columns, alive_mask=_present_in(alive_mask, columns["reward"]))

    @property
    def horizon(self) -> int:
        """Number of steps."""
        return len(self.reward)

    @property
    def ended(self) -> Tensor:
        """(time, env) bool: the env was reset after this step."""
        return self.terminated | self.truncated

    def mask_dead_actions(self, action: Tensor, step: int | slice = slice(None)) -> Tensor:
        """Return actions `(*any, agent, act_dim)` of a step or all, without gradient of absent."""
        return mask_dead_actions(action, None if self.alive_mask is None else self.alive_mask[step])

    def segments(self, length: int) -> "Window":
        """Return segments of `length` steps side by side: (length, segment, ...)."""
        return self.each(lambda values: cut(values, length))

    def chosen(self, envs: Tensor) -> "Window":
        """Return some of the envs, or segments, by number."""
        return self.each(lambda values: values[:, envs])

    def summary(self) -> dict[str, float]:
        """Return what every trainer logs: mean reward, and how many episodes ended."""
        return {
            "reward": float(self.reward.mean()),
            "episodes_ended": float(self.ended.sum()),
            "episodes_terminated": float(self.terminated.sum()),
        }

    def detach(self) -> "Window":
        """Return the same numbers without any graph."""
        return self.each(lambda tensor: tensor.detach())

    def to(self, device: torch.device) -> "Window":
        """Return the window on a device."""
        return self.each(lambda tensor: tensor.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Window":
        """Return the window with every tensor it has changed, such as to some of its envs."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in tensors.items() if v is not None})


def step_of(
    obs: Tensor,
    action: Tensor,
    result: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]],
) -> dict[str, Tensor]:
    """Return a step as `Window.of` takes it.

    Args:
        obs: (env, agent, obs_dim) that was acted on.
        action: (env, agent, act_dim).
        result: what the env's `step` returned.
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
    """Return actions `(*any, agent, act_dim)` without the gradient of who is absent.

    Args:
        action: of all agents.
        alive_mask: (*any, agent) bool; None where all are there.
    """
    if alive_mask is None:
        return action
    return torch.where(alive_mask.unsqueeze(-1), action, action.detach())


def _present_in(steps: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Return who was there in each step, (time, env, agent) as `like`; None where all always."""
    if all(step is None for step in steps):
        return None
    everyone = torch.ones_like(like[0], dtype=torch.bool)
    return torch.stack([everyone if step is None else step for step in steps])


def check_horizon(horizon: int) -> None:
    """Refuse a horizon below one step."""
    if horizon < 1:
        raise UsageError(f"horizon is {horizon}; a window needs at least 1 step")


def check_window(window: Any, sizes: tuple[int, int, int]) -> None:
    """Refuse what the models of an env with (agents, obs_dim, act_dim) `sizes` cannot learn from.

    Raises:
        UsageError: it is no window, or of another kind of env.
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
    """Cut (time, env, ...) into pieces of `length` steps, side by side: (length, piece, ...)."""
    return values.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)
