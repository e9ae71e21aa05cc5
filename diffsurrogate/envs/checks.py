"""Checks of what a simulator returns; errors name the env, the step and the field."""

import difflib
import math
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from diffsurrogate.config import is_whole, require_whole
from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.modes import usable
from diffsurrogate.envs.waiting import Call
from diffsurrogate.errors import UsageError

_Given = TypeVar("_Given")


class Fault(Exception):
    """An error in a function of the simulation; `StepChecks` adds the step."""


class StepChecks:
    """Checks what a batch of envs returns, without changing it.

    Shape checks cost nothing. Finiteness is read off the sum of all values, in one transfer from
    the device; only if the sum is not finite (it may have overflowed) is each value checked. Values
    that are not finite are in no bounds' way.
    """

    def __init__(
        self, name: str, agents: Sequence[str], shape: tuple[int, int, int], bounds: Bounds | None
    ) -> None:
        """Store the expected shapes.

        Args:
            name: of the env, for messages.
            agents: names of the agents.
            shape: (env, agent, obs_dim) of observations.
            bounds: bounds of one env's observations; None for no check.
        """
        self._call = Call(name)
        self._agents = list(agents)
        self._bounds = bounds
        self._needed: dict[str, tuple[str, tuple[int, ...]]] = {
            "reward": ("(env, agent)", shape[:2]),
            "observation": ("(env, agent, obs_dim)", shape),
            "terminated": ("(env,)", shape[:1]),
            "truncated": ("(env,)", shape[:1]),
        }

    @property
    def name(self) -> str:
        """Of the env, for messages; adapters set that of the env they step."""
        return self._call.name

    @name.setter
    def name(self, name: str) -> None:
        """Name the env in messages from now on."""
        self._call.name = name

    def step(
        self,
        advance: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
        action: Tensor,
        steps: Tensor,
        seen: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run a step and check types and shapes; `broken` checks the values.

        Args:
            advance: the simulation's step.
            action: (env, agent, act_dim).
            steps: (env,) episode steps, this one included.
            seen: (env, agent, obs_dim), the previous observation, which must not be overwritten.

        Raises:
            UsageError: the step raised, returned a non-tensor or a wrong shape or dtype, or wrote
                into `seen`.
        """
        version = seen._version
        self._begin("step", advance, steps)
        try:
            obs, reward, terminated = map(usable, advance(action))
        except Exception as error:
            self._refuse(error, "_advance", steps)
        finally:
            self._end()
        self._check_untouched(seen, version, steps)
        self._check_shape("observation", obs, steps)
        self._check_shape("reward", reward, steps)
        self._check_shape("terminated", terminated, steps)
        return obs, reward, terminated

    def reset(
        self,
        reset: Callable[[_Given], Tensor],
        given: _Given,
        steps: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Run a reset and check types and shapes, and the values too if all envs are reset.

        Args:
            reset: the simulation's reset.
            given: its argument, a seed or a mask.
            steps: (env,) episode steps before a reset of some envs; None if all are reset.
            seen: (env, agent, obs_dim), the previous observation, which must not be overwritten.

        Raises:
            UsageError: the reset raised, returned a non-tensor or a wrong shape or dtype, or wrote
                into `seen`.
        """
        version = None if seen is None else seen._version
        self._begin("reset", reset, steps)
        try:
            obs = usable(reset(given))
        except Exception as error:
            self._refuse(error, "_reset_all" if steps is None else "_reset_where", steps)
        finally:
            self._end()
        if seen is not None:
            self._check_untouched(seen, version, steps, reset=True)
        self._check_shape("observation", obs, steps, reset=True)
        if steps is None:
            self.fresh(None, obs)
        return obs

    def fresh(self, steps: Tensor | None, obs: Tensor) -> None:
        """Refuse observations after a reset that are not finite or out of bounds.

        Args:
            steps: (env,) episode steps before the reset; None if all envs are reset.
            obs: (env, agent, obs_dim).

        Raises:
            UsageError: a value is not finite or out of bounds.
        """
        if not _finite_sum(obs):
            self._check_finite("observation", obs, steps, reset=True)
        self._check_bounds(obs, steps, reset=True)

    def cut(self, cut_short: Callable[[], Tensor], steps: Tensor) -> Tensor:
        """Return which envs the simulation itself truncated in the last of `steps` (env,).

        Raises:
            UsageError: the call raised, or returned a non-tensor or a wrong shape or dtype.
        """
        try:
            truncated = cut_short()
        except Exception as error:
            self._refuse(error, "_cut_short", steps)
        self._check_shape("truncated", truncated, steps)
        return truncated

    def alive_mask(self, there: Tensor | None) -> Tensor | None:
        """Check the simulation's alive mask, (env, agent) bool; None if all agents are alive.

        Raises:
            UsageError: it has a wrong shape or dtype.
        """
        shape = self._needed["reward"][1]
        if there is not None and (there.shape != shape or there.dtype != torch.bool):
            raise UsageError(
                f"{self.name}.alive_mask has shape {tuple(there.shape)} and dtype {there.dtype}; "
                f"(env, agent) = {tuple(shape)} and torch.bool are needed"
            )
        return there

    def broken(self, steps: Tensor, obs: Tensor, reward: Tensor, *, allowed: bool) -> Tensor | None:
        """Return which envs (env,) gave values that are not finite; None if none did.

        Args:
            steps: (env,) episode steps, this one included.
            obs: (env, agent, obs_dim), before any reset.
            reward: (env, agent).
            allowed: whether values may be not finite.

        Raises:
            UsageError: one is and may not be, or an observation is out of bounds.
        """
        self._check_bounds(obs, steps)
        if _finite_sum(obs, reward):
            return None
        if not allowed:
            self._check_finite("observation", obs, steps)
            self._check_finite("reward", reward, steps)
        broken = ~(obs.isfinite().flatten(1).all(1) & reward.isfinite().all(1))
        return broken if bool(broken.any()) else None

    def _begin(self, what: str, method: Callable[..., Any], steps: Tensor | None) -> None:
        """Note a call that may hang: fields are all that the watch reads, in its thread."""
        call = self._call
        call.what, call.method, call.steps = what, method, steps
        call.since = time.monotonic()

    def _end(self) -> None:
        call = self._call
        call.since = call.method = call.steps = None

    def _refuse(self, error: Exception, method: str, steps: Tensor | None) -> NoReturn:
        """Re-raise an error, chained, with the step it occurred in."""
        if isinstance(error, UsageError):
            raise error
        if isinstance(error, Fault):
            raise UsageError(f"{error} (all envs, {_when_all(steps)})") from error.__cause__
        raise UsageError(
            f"{self.name}.{method} of all envs failed {_when_all(steps)}: {reason(error)}"
        ) from error

    # --- one field ------------------------------------------------------------------------------

    def _check_untouched(
        self, seen: Tensor, version: int | None, steps: Tensor | None, reset: bool = False
    ) -> None:
        """Refuse a simulation that writes into an observation it has returned.

        Only writes by torch are detected.
        """
        if seen._version != version:
            raise UsageError(
                f"{self.name}: the observation of all envs {_when_all(steps, reset)} was written "
                "into the tensor of the one before, which policies and models still hold; return "
                "new tensors or a clone instead of changing old ones in place"
            )

    def _check_shape(
        self, field: str, got: object, steps: Tensor | None, reset: bool = False
    ) -> None:
        axes, shape = self._needed[field]
        flags = len(shape) == 1
        if isinstance(got, Tensor) and got.shape == shape:
            if got.dtype == torch.bool if flags else got.is_floating_point():
                return
        if not isinstance(got, Tensor):
            given, needed = f"is a {type(got).__name__}", f"a torch.Tensor {axes} = {shape}"
        elif got.shape != shape:
            given, needed = f"has shape {tuple(got.shape)}", f"{axes} = {shape}"
        else:
            given, needed = f"has dtype {got.dtype}", "torch.bool" if flags else "torch.float32"
        raise UsageError(
            f"{self.name}: the {field} of all envs {_when_all(steps, reset)} {given}; {needed} is "
            "needed"
        )

    def _check_finite(
        self, field: str, got: Tensor, steps: Tensor | None, reset: bool = False
    ) -> None:
        bad = ~torch.isfinite(got.detach())
        if not bool(bad.any()):
            return
        index, agent, *feature = bad.nonzero()[0].tolist()
        entry = f" at {feature}" if feature else ""
        raise UsageError(
            f"{self.name}: the {field} of env {index} {_when(steps, index, reset)} is not finite: "
            f"{got[index, agent, *feature].item()} for agent {self._agents[agent]!r}{entry}; mend "
            "the env"
        )

    def _check_bounds(self, obs: Tensor, steps: Tensor | None, reset: bool = False) -> None:
        if self._bounds is None or self._bounds.holds(obs.detach()):
            return
        for index, row in enumerate(obs.detach().cpu().numpy()):
            complaint = self._bounds.complaint(row)
            if complaint is not None:
                when = _when(steps, index, reset)
                raise UsageError(
                    f"{self.name}: the observation of env {index} {when} is {complaint}"
                )


def reason(error: Exception) -> str:
    """Format an exception on one line: type, message, and where it was raised, if in the call."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"


def _finite_sum(*fields: Tensor) -> bool:
    """Return whether the sum over all fields is finite; if so, every value is."""
    sums = [field.detach().sum() for field in fields]
    return math.isfinite(sum(sums[1:], start=sums[0]).item())


def _when(steps: Tensor | None, index: int, reset: bool) -> str:
    """Say when it happened in one env."""
    if steps is None:
        return "at the reset"
    count = int(steps[index])
    return f"at {'the reset after ' if reset else ''}step {count} of its episode"


def _when_all(steps: Tensor | None, reset: bool = False) -> str:
    """Say when it happened, for envs that may be at different steps of their episodes."""
    if steps is None:
        return "at the reset"
    first, last = int(steps.min()), int(steps.max())
    step = f"step {first}" if first == last else f"steps {first} to {last}"
    after = "the reset after " if reset else ""
    return f"at {after}{step} of {'its episode' if len(steps) == 1 else 'their episodes'}"


def check_world(
    num_envs: int,
    agents: Sequence[str],
    observation_space: spaces.Box,
    action_space: spaces.Box,
    max_steps: int | None,
) -> None:
    """Check the arguments every env is built from.

    Args:
        num_envs: number of envs that step together.
        agents: one name per agent.
        observation_space: box `(agent, obs_dim)` of one env.
        action_space: box `(agent, act_dim)` of one env.
        max_steps: steps after which an episode is truncated; None for never.

    Raises:
        UsageError: a number is below 1 or not whole, there are no agents, observations or actions
            have no entries, or the action box is infinite.
    """
    require_whole("num_envs", num_envs, low=1)
    if not agents:
        raise UsageError("the env has no agents; at least 1 is needed (n_agents=1)")
    if max_steps is not None:
        require_whole("max_steps", max_steps, low=1)
    for what, space in (("observations", observation_space), ("actions", action_space)):
        if 0 in space.shape:
            raise UsageError(
                f"{what} of (agent, feature) = {space.shape} have no entries; give at least one "
                "number, such as a constant 0 as what a stateless env shows"
            )
    if not np.isfinite([action_space.low, action_space.high]).all():
        raise UsageError("the action box must be finite; rescale the actions in your env")


RESET_MASK = "reset_mask"


def check_seed(seed: Any) -> None:
    """Refuse a seed of `reset` that is not one whole number, such as one per env."""
    if seed is not None and not is_whole(seed):
        raise UsageError(
            f"seed is {seed!r}; give one whole number, from which every env gets its own"
        )


def other_options(options: dict[str, Any] | None, name: str, *, taken: bool) -> dict[str, Any]:
    """Return the options of `reset` that are the simulator's own.

    Args:
        options: of `reset`; None for none.
        name: of the env, for messages.
        taken: whether the simulator takes any.

    Raises:
        UsageError: it does not, or one is a misspelt `reset_mask`.
    """
    others = {key: value for key, value in (options or {}).items() if key != RESET_MASK}
    misspelt = difflib.get_close_matches(RESET_MASK, map(str, others), cutoff=0.8)
    if others and (misspelt or not taken):
        raise UsageError(
            f"{name}.reset does not take the options {', '.join(map(str, others))}; it takes "
            f"{RESET_MASK}" + (f"; did you mean {RESET_MASK}?" if misspelt else "")
        )
    return others


def reset_mask(options: dict[str, Any] | None, num_envs: int, seed: int | None) -> Tensor | None:
    """Return `options["reset_mask"]` as (env,) bool; None to reset all envs.

    Args:
        options: of `reset`; the mask is a tensor, an array or a list.
        num_envs: number of envs.
        seed: of `reset`; not allowed with a mask, as it would reseed the running envs too.

    Raises:
        UsageError: the mask has a wrong shape, is not bool, or comes with a seed.
    """
    given = (options or {}).get(RESET_MASK)
    if given is None:
        return None
    mask = torch.as_tensor(given)
    if mask.shape != (num_envs,) or mask.dtype != torch.bool:
        raise UsageError(
            f"reset_mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; (env,) = "
            f"({num_envs},) and bool are needed"
        )
    if seed is not None:
        raise UsageError(
            'reset(seed=..., options={"reset_mask": ...}) would reseed the running envs too; give '
            "one of the two"
        )
    return mask
