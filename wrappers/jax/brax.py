"""Envs of Brax's protocol, of Brax itself, MuJoCo Playground or the user, with their gradients."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.ids import check_names, parameters_of
from diffsurrogate.wrappers.jax.adapter import JaxEnv
from diffsurrogate.wrappers.jax.arrays import Array
from diffsurrogate.wrappers.jax.library import jnp
from diffsurrogate.wrappers.jax.simulation import Reset, Step

_OF_TRAINERS = {
    *("VmapWrapper", "EpisodeWrapper", "AutoResetWrapper", "EvalWrapper"),
    *("DomainRandomizationVmapWrapper", "BraxDomainRandomizationVmapWrapper"),
    "BraxAutoResetWrapper",
}
"""Wrappers that Brax's trainers put around an env, in `brax.envs.wrappers.training` and
`mujoco_playground.wrapper`: they batch and reset it, and set `done` at the time limit."""
_SEEN, _HIDDEN = "state", "privileged_state"
"""Playground's keys of an observation: for the policy, and for the critic alone."""
_USUAL_LIMIT = 1000
"""Steps of an episode where an env has no time limit of its own: Brax's default."""


class BraxEnv(JaxEnv):
    """Copies of an env of Brax's protocol: a `brax.envs.Env` or MuJoCo Playground's `MjxEnv`.

    Values are the raw env's own. Its whole `State` is the state of a copy (metrics, infos, random
    keys in them), and goes on after `state()` and `set_state()` as it would have. `done` is
    `terminated`; the time limit is `max_steps`.

    Of observations that are a dict, policies see "state"; "privileged_state" follows as the global
    state, for critics and models (`global_state_slice`).

    The raw env is read when its functions are compiled, at the first reset, step and backward pass
    with each number of copies: change it before, not after.

    Example:
        >>> from brax import envs
        >>> raw = envs.get_environment("inverted_pendulum", backend="spring")
        >>> env = as_multi_agent(raw, num_envs=64, differentiable=True)
    """

    no_gradient_advice: ClassVar[str] = (
        ". Brax's generalized, spring and positional physics have gradients; MuJoCo MJX has them "
        "only without a loop in its solver, of a model with opt.iterations=1"
    )

    def __init__(
        self,
        raw: Any,
        *,
        num_envs: int = 64,
        max_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        action_limit: float = 1.0,
    ) -> None:
        """Copy `raw`, which holds no state and may be used elsewhere.

        Args:
            raw: of one copy, not wrapped for Brax's trainers.
            num_envs: copies that step together.
            max_steps: steps after which an episode is truncated; None for the `episode_length` of
                Playground's config, or else 1000.
            seed: of the first reset without one.
            device: of all tensors; JAX computes there.
            differentiable: keep the graph of dynamics and reward.
            action_limit: actions are clamped to [-action_limit, action_limit].

        Raises:
            UsageError: the env is wrapped for Brax's trainers, simulated by MuJoCo Warp, its
                observations are pictures or unknown dicts, it has no gradient though one is asked
                for, or as `JaxEnv`.
        """
        _check_bare(raw)
        _check_physics(raw)
        reset, step = _functions(raw)
        super().__init__(
            reset,
            step,
            act_dim=int(raw.action_size),
            num_envs=num_envs,
            action_limit=action_limit,
            seed=seed,
            device=device,
            differentiable=differentiable,
            max_steps=_time_limit(raw) if max_steps is None else max_steps,
        )
        obs = self._simulation.compiled.shape.obs
        if isinstance(obs, Mapping) and _HIDDEN in obs:
            self.global_state_slice = slice(obs[_SEEN].size, self.obs_dim)
        self.raw = raw
        """The raw env."""

    @classmethod
    def from_raw(
        cls, raw: Any, *, make_another: Callable[[], Any] | None = None, **options: Any
    ) -> MultiAgentVectorEnv:
        """Adapt a raw env, which is enough for any number of copies; `as_multi_agent` calls this.

        Raises:
            UsageError: an option is not known; or as the class.
        """
        check_names(cls.__name__, options, parameters_of(cls))
        return cls(raw, **options)


def _check_bare(raw: Any) -> None:
    """Refuse an env that Brax's trainers have wrapped."""
    found, limit, inner = [], None, raw
    while inner is not None:
        if {kind.__name__ for kind in type(inner).__mro__} & _OF_TRAINERS:
            found.append(type(inner).__name__)
        limit = limit or vars(inner).get("episode_length")
        inner = vars(inner).get("env")
    if found:
        raise UsageError(
            f"{type(raw.unwrapped).__name__} is wrapped for Brax's trainers ({', '.join(found)}), "
            "so that it is batched, resets itself, or its done does not tell a time limit from an "
            "end; give the env inside (env.unwrapped, or brax.envs.get_environment instead of "
            f"create), with max_steps={limit or _USUAL_LIMIT} as its time limit"
        )


def _check_physics(raw: Any) -> None:
    """Refuse MuJoCo Warp, which keeps the contacts of all copies in the same arrays."""
    models = [getattr(raw, name, None) for name in ("mjx_model", "sys")]
    if "warp" in {getattr(getattr(model, "impl", None), "value", None) for model in models}:
        raise UsageError(
            f"{type(raw.unwrapped).__name__} is simulated by MuJoCo Warp, whose states cannot be "
            "those of single copies; make it with impl='jax' (of Playground: "
            "config_overrides={'impl': 'jax'})"
        )


def _time_limit(raw: Any) -> int:
    """Return the steps of an episode by Playground's config, else Brax's default."""
    limit = getattr(getattr(raw, "_config", None), "episode_length", None)
    return limit if isinstance(limit, int) else _USUAL_LIMIT


def _functions(raw: Any) -> tuple[Reset, Step]:
    """Return an env's `reset` and `step` as `JaxEnv` takes them."""

    def reset(key: Array) -> tuple[Any, Array]:
        state = raw.reset(key)
        return state, _seen(state.obs)

    def step(state: Any, action: Array) -> tuple[Any, Array, Array, Array]:
        after = raw.step(state, action)
        return after, _seen(after.obs), after.reward, after.done

    return reset, step


def _seen(obs: Any) -> Array:
    """Return one row of what is observed, the part that policies do not see at its end."""
    if not isinstance(obs, Mapping):
        return obs
    if _SEEN not in obs or set(obs) - {_SEEN, _HIDDEN}:
        raise UsageError(
            f"the env's observations have the keys {', '.join(map(repr, obs))}; known are "
            f"{_SEEN!r} and, for critics, {_HIDDEN!r}: wrap the env so that its obs is one array, "
            "or has these keys"
        )
    return jnp.concatenate([obs[key] for key in (_SEEN, _HIDDEN) if key in obs], axis=-1)
