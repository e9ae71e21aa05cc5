"""Copies of an env as compiled functions of JAX arrays, and their gradient as torch's autograd."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from diffsurrogate.envs.window import GradientGuard
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.jax.arrays import Array, jax_device, restored, settled, to_jax, to_torch
from diffsurrogate.wrappers.jax.library import compiler_options, jax, jnp

Reset = Callable[..., tuple[Any, Array]]
"""key[, params] -> state, obs; of one copy."""
Step = Callable[..., tuple[Any, Array, Array, Array]]
"""state, action[, params] -> state, obs, reward, terminated; of one copy."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one copy's arrays look like on our side, without the env axis."""

    agents: int
    act_dim: int
    single: bool
    """Whether the functions know of no agents: actions `(act_dim,)`, a reward of shape `()`."""


class Compiled:
    """An env's functions, compiled once for all envs made of them and each number of copies.

    A state is a pytree. Its real and complex leaves, `moving`, carry gradients; the `rest`
    (counters, random keys) does not. `params` are shared by all copies and pass no gradient; other
    values of the same shapes need no new compilation. They are a list of leaves here: MJX's model
    takes a third of a millisecond to flatten, at each call.
    """

    def __init__(
        self, reset: Reset, step: Step, rows: Rows, shape: Any, params: Any, quick: bool
    ) -> None:
        """Store the functions.

        Args:
            reset, step, rows: see `Simulation`.
            shape: the state's structure.
            params: the structure of the tuple of last arguments.
            quick: compile faster on the CPU.
        """
        self._reset, self._step, self.rows = reset, step, rows
        self._params = params
        self.shape = shape
        """Of one copy's state: a pytree of `jax.ShapeDtypeStruct`."""
        leaves, self._tree = jax.tree.flatten(shape)
        self.is_moving = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        self.leaves = leaves
        options = compiler_options() if quick else None
        over_copies = functools.partial(jax.vmap, in_axes=(0, None))
        self.start = jax.jit(over_copies(self._start))
        """keys, params -> keys, moving, rest, obs."""
        self.restart = jax.jit(jax.vmap(self._restart, in_axes=(0, 0, 0, None)))
        """mask, keys, rest, params -> keys, moving of all, rest, obs of all."""
        self.advance = jax.jit(self._advance_all, compiler_options=options)
        """moving, action, rest, params -> (moving, obs, reward), (rest, terminated)."""
        self.gradient = jax.jit(self._gradient, compiler_options=options)
        """moving, action, rest, params, gradients of (moving, obs, reward) -> of (moving, action).

        Recomputes the step: to keep what it needs would take longer, and memory."""

    # --- of one copy ------------------------------------------------------------------------------

    def _start(self, key: Array, params: Any) -> tuple[Any, ...]:
        key, own = jax.random.split(key)
        state, obs = self._reset(own, *jax.tree.unflatten(self._params, params))
        return key, *self._parts(state), self._obs(obs)

    def _restart(self, ended: Array, key: Array, rest: Any, params: Any) -> tuple[Any, ...]:
        fresh_key, moving, fresh, obs = self._start(key, params)
        chosen = [jax.lax.select(ended, a, b) for a, b in zip(fresh, rest, strict=True)]
        return jax.lax.select(ended, fresh_key, key), moving, chosen, obs

    def _advance(self, moving: Any, action: Array, rest: Any, params: Any) -> tuple[Any, ...]:
        state = self.whole(moving, rest)
        action = action[0] if self.rows.single else action
        after, obs, reward, terminated = self._step(
            state, action, *jax.tree.unflatten(self._params, params)
        )
        after_moving, after_rest = self._parts(after)
        rewards = jnp.asarray(reward).astype(jnp.float32).reshape(self.rows.agents)
        ended = jnp.asarray(terminated).astype(bool).reshape(())
        return (after_moving, self._obs(obs), rewards), (after_rest, ended)

    def _obs(self, obs: Any) -> Array:
        return jnp.asarray(obs).astype(jnp.float32).reshape(self.rows.agents, -1)

    def _parts(self, state: Any) -> tuple[list[Array], list[Array]]:
        return self.split([settled(leaf) for leaf in jax.tree.leaves(state)])

    def split(self, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
        """Return those of a state's leaves that are `moving`, and the `rest`."""
        pairs = list(zip(leaves, self.is_moving, strict=True))
        return [x for x, moves in pairs if moves], [x for x, moves in pairs if not moves]

    def whole(self, moving: Any, rest: Any) -> Any:
        """Return the state of which `moving` and `rest` are the leaves."""
        one, other = iter(moving), iter(rest)
        return jax.tree.unflatten(
            self._tree, [next(one if moves else other) for moves in self.is_moving]
        )

    # --- of all copies ----------------------------------------------------------------------------

    def _advance_all(self, moving: Any, action: Array, rest: Any, params: Any) -> tuple[Any, ...]:
        return jax.vmap(self._advance, in_axes=(0, 0, 0, None))(moving, action, rest, params)

    def _gradient(
        self, moving: Any, action: Array, rest: Any, params: Any, after: Any
    ) -> tuple[Any, Array]:
        _, pull_back = jax.vjp(
            lambda moving, action: self._advance_all(moving, action, rest, params)[0],
            moving,
            action,
        )
        return pull_back(after)

    def trace_gradient(self, num_envs: int, params: Any) -> None:
        """Trace the gradient for so many copies, without compiling it; its first call reuses that.

        Raises whatever JAX does where it has none.
        """

        def of_all(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

        moving, rest = self.split([of_all(leaf.shape, leaf.dtype) for leaf in self.leaves])
        action = of_all((self.rows.agents, self.rows.act_dim))
        after, _ = jax.eval_shape(self.advance, moving, action, rest, params)
        self.gradient.eval_shape(moving, action, rest, params, after)


@functools.lru_cache(maxsize=64)
def _compiled(
    reset: Reset,
    step: Step,
    rows: Rows,
    tree: Any,
    leaves: tuple[Any, ...],
    params: Any,
    quick: bool,
) -> Compiled:
    """Share what is compiled among all envs of the same functions."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
    return Compiled(reset, step, rows, jax.tree.unflatten(tree, shapes), params, quick)


class Simulation:
    """The compiled functions of one env, with its params and device, between torch and JAX."""

    def __init__(
        self, name: str, reset: Reset, step: Step, rows: Rows, params: Any, device: torch.device
    ) -> None:
        """Trace the functions once, without compiling them.

        Args:
            name: of the env, for messages.
            reset, step: the env's functions, of one copy.
            rows: its agents and actions.
            params: their last argument; None if they take none.
            device: of all arrays.

        Raises:
            UsageError: a function cannot be traced or returns what it should not, or JAX cannot
                reach the device.
        """
        self.name = name
        self.device = jax_device(device)
        whole = () if params is None else (jax.device_put(params, self.device),)
        self.params, params_tree = jax.tree.flatten(whole)
        key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
        state, obs = self._traced("reset", reset, ("state", "obs"), key, *whole)
        state = jax.eval_shape(lambda tree: jax.tree.map(settled, tree), state)
        width = (rows.act_dim,) if rows.single else (rows.agents, rows.act_dim)
        action = jax.ShapeDtypeStruct(width, jnp.float32)
        parts = ("state", "obs", "reward", "terminated")
        after, obs_after, reward, terminated = self._traced(
            "step", step, parts, state, action, *whole
        )
        self._check(state, obs, after, obs_after, reward, terminated, rows)
        self.obs_dim = obs.size // rows.agents
        leaves, tree = jax.tree.flatten(state)
        described = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        quick = self.device.platform == "cpu"
        self.compiled = _compiled(reset, step, rows, tree, described, params_tree, quick)

    def check_gradient(self, num_envs: int, advice: str) -> None:
        """Trace the backward pass of a step.

        Args:
            num_envs: copies.
            advice: ends the message.

        Raises:
            UsageError: JAX has no gradient of `step`.
        """
        try:
            self.compiled.trace_gradient(num_envs, self.params)
        except Exception as error:  # of any kind: each thing without a gradient has its own
            reason = (str(error).splitlines() or [""])[0]
            raise UsageError(
                f"{self.name}: JAX cannot differentiate step(): {type(error).__name__}: {reason} "
                "Leave out differentiable=True, and let LearnedDiffWrapper(env) learn its "
                f"gradients{advice}"
            ) from error

    def start(self, keys: Array) -> tuple[Array, list[Tensor], list[Array], Tensor]:
        """Reset every copy; return keys, moving, rest and obs."""
        keys, moving, rest, obs = self.compiled.start(keys, self.params)
        return keys, [to_torch(x) for x in moving], rest, to_torch(obs)

    def restart(
        self, mask: Tensor, keys: Array, rest: list[Array]
    ) -> tuple[Array, list[Tensor], list[Array], Tensor]:
        """Reset the copies in `mask` (env,); the returned moving and obs are valid there alone."""
        after = self.compiled.restart(to_jax(mask), keys, rest, self.params)
        keys, moving, rest, obs = after
        return keys, [to_torch(x) for x in moving], rest, to_torch(obs)

    def advance(
        self, moving: list[Tensor], action: Tensor, rest: list[Array], guard: GradientGuard
    ) -> tuple[list[Tensor], Tensor, Tensor, list[Array], Tensor]:
        """Step every copy, with a graph if gradients are enabled.

        Returns:
            moving, obs (env, agent, obs_dim), reward (env, agent), rest and terminated (env,).
        """
        aside: list[Any] = []
        step: Any = _Step.apply
        obs, reward, *after = step(self, rest, guard, aside, action, *moving)
        rest, terminated = aside
        return after, obs, reward, rest, to_torch(terminated)

    def whole(self, moving: list[Tensor], rest: list[Array]) -> Any:
        """Return the state of all copies, a pytree of JAX arrays."""
        return self.compiled.whole([to_jax(leaf) for leaf in moving], rest)

    def restored(
        self, moving: list[Tensor], rest: list[Tensor], device: torch.device
    ) -> list[Array]:
        """Return the rest of a state of which `arrays.saved` made tensors.

        Raises:
            UsageError: it is the state of another env.
        """
        own_moving, ours = self.compiled.split(self.compiled.leaves)
        shapes = [leaf.shape for leaf in own_moving]
        if [tuple(x.shape[1:]) for x in moving] != shapes or len(rest) != len(ours):
            raise UsageError(
                f"the state is not one of this {self.name}: its arrays have other shapes; make the "
                "env as it was when the state was taken"
            )
        return [restored(leaf, like, device) for leaf, like in zip(rest, ours, strict=True)]

    def _traced(self, method: str, function: Any, parts: tuple[str, ...], *args: Any) -> Any:
        try:
            result = jax.eval_shape(function, *args)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self.name}: {method}() cannot be compiled by JAX: {type(error).__name__}: "
                f"{error}; it must be a function of one copy's JAX arrays alone"
            ) from error
        if not isinstance(result, tuple) or len(result) != len(parts):
            count = len(result) if isinstance(result, tuple) else 1
            raise UsageError(
                f"{self.name}: {method}() returns {count} values; a tuple of {len(parts)} is "
                f"needed: {', '.join(parts)}"
            )
        return result

    def _check(
        self,
        state: Any,
        obs: Any,
        after: Any,
        obs_after: Any,
        reward: Any,
        terminated: Any,
        rows: Rows,
    ) -> None:
        after = jax.eval_shape(lambda tree: jax.tree.map(settled, tree), after)
        if difference := _difference(state, after):
            raise UsageError(
                f"{self.name}: the state after step() is not shaped as that after reset(): "
                f"{difference}; give it the same arrays, shapes and dtypes in both"
            )
        if not jax.tree.leaves(state):
            raise UsageError(f"{self.name}: the state has no arrays; give it at least one")
        first = None if rows.single else rows.agents
        for method, shape in (("reset", obs.shape), ("step", obs_after.shape)):
            fits = shape == obs.shape and len(shape) == (1 if first is None else 2)
            if not fits or 0 in shape or (first is not None and shape[0] != first):
                needed = "(obs_dim,)" if first is None else f"(agent, obs_dim) = ({first}, ...)"
                raise UsageError(
                    f"{self.name}: {method}() gives an obs of shape {shape}; {needed} is needed, "
                    "the same in both, of one copy"
                )
        per_agent = () if first is None else (first,)
        for field, given, wanted in (
            ("reward", reward.shape, per_agent),
            ("terminated", terminated.shape, ()),
        ):
            if given != wanted:
                raise UsageError(
                    f"{self.name}: step() gives a {field} of shape {given}; {wanted} is needed, of "
                    "one copy"
                )


def _difference(before: Any, after: Any) -> str:
    """Return how a state after `step`, of shapes, differs from one before; "" if it does not."""
    described = [
        {
            jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        for state in (before, after)
    ]
    names = dict.fromkeys([*described[0], *described[1]])
    other = [name for name in names if described[0].get(name) != described[1].get(name)]
    if other:
        shown = [
            f"{name}: {', then '.join(x.get(name, 'none') for x in described)}" for name in other
        ]
        return "; ".join(shown[:5]) + (f"; and {len(other) - 5} more" if len(other) > 5 else "")
    trees: list[Any] = [jax.tree.structure(state) for state in (before, after)]
    if trees[0] != trees[1]:
        return (
            "its arrays are, but not what it is made of (containers, or values that are no arrays)"
        )
    return ""


class _Step(torch.autograd.Function):
    """One step of all copies; the backward pass is JAX's vector-Jacobian product."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        simulation: Simulation,
        rest: list[Array],
        guard: GradientGuard,
        aside: list[Any],
        action: Tensor,
        *moving: Tensor,
    ) -> tuple[Tensor, ...]:
        given = ([to_jax(x) for x in moving], to_jax(action), rest, simulation.params)
        (after, obs, reward), (rest_after, terminated) = simulation.compiled.advance(*given)
        aside += [rest_after, terminated]
        ctx.compiled, ctx.given, ctx.guard = simulation.compiled, given, guard  # type: ignore[attr-defined]
        return to_torch(obs), to_torch(reward), *map(to_torch, after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, obs: Tensor, reward: Tensor, *after: Tensor) -> tuple[Any, ...]:
        # of a complex leaf, JAX's gradient is the conjugate of torch's
        later = ([to_jax(x.conj().resolve_conj()) for x in after], to_jax(obs), to_jax(reward))
        moving, action = ctx.compiled.gradient(*ctx.given, later)
        gradients = ctx.guard.finite_rows([to_torch(x).conj() for x in (action, *moving)])
        return None, None, None, None, *gradients
