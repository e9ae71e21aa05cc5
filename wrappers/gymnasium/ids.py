"""Gymnasium's registered envs by id: `gymnasium/<EnvId>`."""

import difflib
import importlib.util
from contextlib import nullcontext
from typing import Any

import gymnasium
import torch
from gymnasium.envs.registration import find_highest_version

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_options
from diffsurrogate.wrappers.external.mujoco_warnings import quiet_mujoco
from diffsurrogate.wrappers.gymnasium.adapter import GymEnv, GymnasiumEnv, vectorise
from diffsurrogate.wrappers.gymnasium.agents import GymnasiumAgentsEnv, is_of_agents


def make(
    name: str,
    *,
    num_envs: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = None,
    render_mode: str | None = None,
    check_bounds: bool = True,
    **env_kwargs: Any,
) -> GymnasiumEnv | GymnasiumAgentsEnv:
    """Make copies of a registered env and step them one after another in this process.

    For copies in other processes, make a `gymnasium.vector.AsyncVectorEnv` and call
    `as_multi_agent`.

    Args:
        name: Gymnasium's id, such as "Pendulum-v1", "module:Env-v0" or "ALE/Pong-v5".
        num_envs, seed, device, differentiable, render_mode, check_bounds: see `ExternalEnv`.
        max_steps: steps until truncation; None for the env's registered time limit, if any.
        env_kwargs: passed on to `gymnasium.make`.

    Raises:
        UsageError: the id or an option is not known, a package is missing, or the env's spaces are
            not supported.
    """
    check_options(f"gymnasium/{name}", num_envs, differentiable, max_steps, render_mode)
    if render_mode is not None:
        env_kwargs["render_mode"] = render_mode
    with quiet_mujoco() if _is_mujocos(name) else nullcontext():
        raws = [_make_one(name, max_steps, env_kwargs) for _ in range(num_envs)]
    modes = raws[0].metadata.get("render_modes", [])
    if render_mode is not None and render_mode not in modes:
        raise UsageError(f"gymnasium/{name} cannot draw pictures; its render modes are {modes}")
    if is_of_agents(raws[0].observation_space, raws[0].action_space):
        return GymnasiumAgentsEnv(raws, seed=seed, device=device, check_bounds=check_bounds)
    return GymnasiumEnv(vectorise(raws), seed=seed, device=device, check_bounds=check_bounds)


def ids() -> list[str]:
    """Return the newest versions of what comes with Gymnasium; registered envs are known too."""
    return [
        spec.id
        for spec in gymnasium.registry.values()
        if isinstance(spec.entry_point, str)  # others only say that they are gone
        and spec.entry_point.startswith("gymnasium.envs.")
        and spec.version == find_highest_version(spec.namespace, spec.name)
    ]


def _is_mujocos(name: str) -> bool:
    spec = gymnasium.registry.get(name)
    return spec is not None and "mujoco" in str(spec.entry_point)


def _make_one(name: str, max_steps: int | None, env_kwargs: dict[str, Any]) -> GymEnv:
    try:
        return gymnasium.make(name, max_episode_steps=max_steps, **env_kwargs)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        close = difflib.get_close_matches(name, list(gymnasium.registry), n=3)
        hint = f" Close to it: {', '.join(close)}" if close else ""
        raise UsageError(f"unknown env gymnasium/{name}. {error}{hint}") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        if _is_mujocos(name) and importlib.util.find_spec("mujoco") is None:
            raise UsageError(
                f"gymnasium/{name} needs MuJoCo, an optional extra: pip install "
                '"diffsurrogate[mujoco]"'
            ) from error
        module, own, _ = name.partition(":")
        if own and importlib.util.find_spec(module.partition(".")[0]) is None:
            raise UsageError(
                f"gymnasium/{name} is registered by a module {module}, which is not found; a file "
                "of yours is if you start by `python -m diffsurrogate` in its folder"
            ) from error
        raise UsageError(f"gymnasium/{name} needs a package: {error}") from error
    except TypeError as error:
        if "n_agents" in env_kwargs:
            raise UsageError(
                f"gymnasium/{name} does not take n_agents (--agents); leave it out ({error})"
            ) from error
        raise UsageError(
            f"gymnasium/{name} could not be made with {env_kwargs or 'its defaults'}: {error}"
        ) from error
