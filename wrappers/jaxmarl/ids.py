"""JaxMARL's own envs by id: `jaxmarl/MPE_simple_spread_v3`, `jaxmarl/HeuristicEnemySMAX-2s3z`."""

import difflib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from diffsurrogate.envs.registry import usable_device
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_options
from diffsurrogate.wrappers.jax.arrays import jax_device
from diffsurrogate.wrappers.jaxmarl.adapter import JaxMARLEnv
from diffsurrogate.wrappers.jaxmarl.library import (
    MAP_NAME_TO_SCENARIO,
    SimpleMPE,
    jax,
    jaxmarl,
    overcooked_layouts,
    overcooked_v2_layouts,
)

_VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "SMAX": ("scenario", MAP_NAME_TO_SCENARIO),
    "HeuristicEnemySMAX": ("scenario", MAP_NAME_TO_SCENARIO),
    "LearnedPolicyEnemySMAX": ("scenario", MAP_NAME_TO_SCENARIO),
    "overcooked": ("layout", overcooked_layouts),
    "overcooked_v2": ("layout", overcooked_v2_layouts),
}
"""Envs with named maps: the option that takes one, and the maps."""
_PHYSICS = {
    *("rad", "moveable", "silent", "collide", "mass", "accel", "max_speed", "u_noise", "c_noise"),
    *("damping", "contact_force", "contact_margin"),
}
"""What the multi-particle envs take without naming it in any signature."""
_UNSUPPORTED = ("storm", "JaxRobotarium", "ant_", "halfcheetah_", "hopper_", "humanoid_", "walker")
"""Envs that give no dicts by agent, or need packages that are unavailable or abandoned (Brax)."""


def ids() -> list[str]:
    """Return the names of JaxMARL's envs that run here, and those with a named map."""
    names = [
        name
        for name in jaxmarl.registered_envs
        if not name.startswith(_UNSUPPORTED) and name != "LearnedPolicyEnemySMAX"
    ]
    maps = [f"{name}-{one}" for name in names if name in _VARIANTS for one in _VARIANTS[name][1]]
    return names + maps


def make(
    name: str,
    *,
    num_envs: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = None,
    render_mode: str | None = None,
    state: bool = False,
    check_bounds: bool = True,
    **options: Any,
) -> JaxMARLEnv:
    """Make copies of one of JaxMARL's envs.

    Args:
        name: as JaxMARL registers it, such as "MPE_simple_spread_v3"; with a named map after a
            hyphen, such as "HeuristicEnemySMAX-2s3z" (against a script), "SMAX-2s3z" (both teams
            are agents) or "overcooked_v2-cramped_room".
        num_envs, seed, device, differentiable, state, check_bounds: see `ExternalEnv`.
        max_steps: steps until truncation, which the raw env is told; None for its own limit.
        render_mode: must be None: these envs cannot be drawn here yet.
        options: of the env, such as `action_type="Continuous"` of the multi-particle envs, which
            otherwise have discrete actions. `scenario` (or `map_name`) and `layout` may be the name
            of a map; `n_agents` is `num_agents`.

    Raises:
        UsageError: the name or an option is not known, a package is missing, or the env is not
            supported.
    """
    env_id = f"jaxmarl/{name}"
    check_options(env_id, num_envs, differentiable, max_steps, render_mode, drawable=False)
    registered, _, variant = name.partition("-")
    if registered not in jaxmarl.registered_envs:
        raise UsageError(f"unknown env {env_id}{_close(registered, jaxmarl.registered_envs)}")
    options = _named_map(env_id, registered, variant, options)
    if "n_agents" in options:
        options["num_agents"] = options.pop("n_agents")
    with jax.default_device(jax_device(usable_device(device))):
        raw = _raw(env_id, registered, options, max_steps)
    return JaxMARLEnv(
        raw,
        num_envs=num_envs,
        max_steps=max_steps,
        seed=seed,
        device=device,
        state=state,
        check_bounds=check_bounds,
    )


def _named_map(
    env_id: str, registered: str, variant: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the options with a named map looked up, whichever way it was given."""
    if registered not in _VARIANTS:
        if variant:
            raise UsageError(
                f"{env_id} has no maps; those of {', '.join(_VARIANTS)} follow a hyphen"
            )
        return options
    option, maps = _VARIANTS[registered]
    given = [options[key] for key in ("map_name", option) if key in options]
    given += [variant] if variant else []
    if len(given) > 1:
        raise UsageError(f"{env_id} is given more than one map: {given}; give one")
    rest = {key: value for key, value in options.items() if key not in ("map_name", option)}
    if not given:
        return rest
    if isinstance(given[0], str) and given[0] not in maps:
        raise UsageError(f"{env_id} knows no map {given[0]!r}{_close(given[0], list(maps))}")
    return rest | {option: maps[given[0]] if isinstance(given[0], str) else given[0]}


def _raw(env_id: str, registered: str, options: dict[str, Any], max_steps: int | None) -> Any:
    """Make the raw env, with the time limit if it takes one."""
    limit = {} if max_steps is None else {"max_steps": max_steps}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # says to use another env
            try:
                raw = jaxmarl.make(registered, **(limit | options))
            except TypeError:
                raw = jaxmarl.make(registered, **options)
    except ImportError as error:
        raise UsageError(f"{env_id} needs a package: {error}") from error
    except Exception as error:  # of any kind: asserts among them
        raise UsageError(
            f"{env_id} could not be made with {options or 'its defaults'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(raw, SimpleMPE):  # swallows what it does not know
        taken = {key for kind in type(raw).__mro__ for key in inspect.signature(kind).parameters}
        unknown = sorted(set(options) - taken - _PHYSICS)
        if unknown:
            known = sorted(taken - {"args", "kwargs", "agents", "landmarks"})
            raise UsageError(f"{env_id} takes no {', '.join(unknown)}; it takes {', '.join(known)}")
    return raw


def _close(word: str, known: list[str]) -> str:
    """Return names like one that was not found, to be added to a message."""
    near = difflib.get_close_matches(word, known, n=3) or known
    return f"; there are {', '.join(near)}"
