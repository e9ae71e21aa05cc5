"""Env ids, and env types of other libraries, with the adapters that build a vector env."""

import functools
import importlib
import inspect
import operator
import weakref
from collections.abc import Callable
from typing import Any

import torch

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.modes import check_defaults
from diffsurrogate.errors import UsageError, did_you_mean

_HELD: "weakref.WeakKeyDictionary[MultiAgentVectorEnv, Any]" = weakref.WeakKeyDictionary()
"""Adapters that live, and the raw envs they move."""
EnvFactory = Callable[..., MultiAgentVectorEnv]
"""Called with the name after the slash of an id, and keyword options."""
_FACTORIES: dict[str, str | EnvFactory] = {
    "vmas": "vmas.adapter:make",
    "paper": "vmas.paper_tasks:make",
    "diffsurrogate": "builtin.cartpole:make",
    "games": "builtin.matrix_games:make",
    "gymnasium": "gymnasium.ids:make",
    "pettingzoo": "pettingzoo.ids:make",
    "mpe2": "pettingzoo.ids:make_mpe2",
    "mujoco": "mujoco.batch_env:make",
    "mamujoco": "mujoco.mamujoco:make",
    "jaxmarl": "jaxmarl.ids:make",
    "mjx": "mjx.ids:make",
}
_IDS: dict[str, str | Callable[[], list[str]]] = {
    "vmas": "vmas.adapter:ids",
    "paper": "vmas.paper_tasks:ids",
    "diffsurrogate": "builtin.cartpole:ids",
    "games": "builtin.matrix_games:ids",
    "gymnasium": "gymnasium.ids:ids",
    "pettingzoo": "pettingzoo.ids:ids",
    "mpe2": "pettingzoo.ids:ids_mpe2",
    "mujoco": "mujoco.batch_env:ids",
    "mamujoco": "mujoco.mamujoco:ids",
    "jaxmarl": "jaxmarl.ids:ids",
    "mjx": "mjx.ids:ids",
}
"""Lists the names after the slash; a namespace not listed accepts any id its library knows."""
_ADAPTERS: dict[str, str | Callable[..., MultiAgentVectorEnv]] = {
    "vmas.simulator.environment.environment.Environment": "vmas.adapter:VmasEnv",
    "vmas.simulator.environment.gym.gym.GymWrapper": "vmas.adapter:VmasEnv.from_wrapper",
    "vmas.simulator.environment.gym.gymnasium.GymnasiumWrapper": (
        "vmas.adapter:VmasEnv.from_wrapper"
    ),
    "vmas.simulator.environment.gym.gymnasium_vec.GymnasiumVectorizedWrapper": (
        "vmas.adapter:VmasEnv.from_wrapper"
    ),
    "vmas.simulator.environment.rllib.VectorEnvWrapper": "vmas.adapter:VmasEnv.from_wrapper",
    "torchrl.envs.libs.vmas.VmasWrapper": "vmas.adapter:VmasEnv.from_wrapper",
    "gymnasium.core.Env": "gymnasium.adapter:GymnasiumEnv.from_raw",
    "gymnasium.vector.vector_env.VectorEnv": "gymnasium.adapter:GymnasiumEnv.from_raw",
    "stable_baselines3.common.vec_env.base_vec_env.VecEnv": "sb3.adapter:AdaptedVecEnv.from_raw",
    "pettingzoo.utils.env.ParallelEnv": "pettingzoo.adapter:PettingZooEnv.from_raw",
    "pettingzoo.utils.env.AECEnv": "pettingzoo.adapter:PettingZooEnv.from_raw",
    "jaxmarl.environments.multi_agent_env.MultiAgentEnv": "jaxmarl.adapter:JaxMARLEnv.from_raw",
    "brax.envs.base.Env": "jax.brax:BraxEnv.from_raw",
    "mujoco_playground._src.mjx_env.MjxEnv": "jax.brax:BraxEnv.from_raw",
}


def make(env_id: str, **options: Any) -> MultiAgentVectorEnv:
    """Make an env by its id, `namespace/name`.

    Args:
        env_id: such as `vmas/dispersion`, `paper/dispersion`, `gymnasium/Pendulum-v1`,
            `mpe2/simple_spread_v3`, `diffsurrogate/cartpole-swingup`.
        options: of the namespace; all accept num_envs, seed, device, differentiable and max_steps.

    Raises:
        UsageError: the id or an option is unknown, or the device cannot be used.
    """
    check_defaults()
    namespace, _, name = env_id.partition("/")
    if namespace not in _FACTORIES or not name:
        hint = did_you_mean(namespace, _FACTORIES) if namespace not in _FACTORIES else ""
        raise UsageError(
            f"unknown env {env_id!r}; ids are namespace/name, with the namespaces "
            f"{', '.join(namespaces())}{hint}; an id of your own is known to a script that calls "
            "register_env, or imports what does"
        )
    if "device" in options:
        options["device"] = usable_device(options["device"])
    _check_listed(namespace, name)
    return _load(_FACTORIES[namespace])(name, **options)


def _check_listed(namespace: str, name: str) -> None:
    """Refuse a name that a user's namespace does not list; libraries refuse theirs themselves."""
    listed = _IDS.get(namespace)
    if listed is None or isinstance(listed, str):
        return
    names = listed()
    if name not in names:
        raise UsageError(
            f"unknown env {namespace}/{name}; the ids of {namespace} given to register_env are "
            f"{', '.join(names)}{did_you_mean(name, names)}"
        )


def namespaces() -> list[str]:
    """Return the namespaces of ids."""
    return sorted(_FACTORIES)


def known_ids(namespace: str) -> list[str] | None:
    """Return the ids of a namespace, such as `paper/dispersion`; None if there is no list.

    Raises:
        UsageError: there is no such namespace, or a package it needs is missing.
    """
    if namespace not in _FACTORIES:
        raise UsageError(
            f"unknown namespace {namespace!r}; known are {', '.join(namespaces())}"
            f"{did_you_mean(namespace, _FACTORIES)}"
        )
    if namespace not in _IDS:
        return None
    return sorted(f"{namespace}/{name}" for name in _load(_IDS[namespace])())


def register_env(
    namespace: str, factory: EnvFactory, ids: Callable[[], list[str]] | None = None
) -> None:
    """Let `make("namespace/name", **options)` call `factory(name, **options)`.

    Args:
        namespace: the part before the slash.
        factory: makes an env from its name.
        ids: lists the names; others are refused. None for no list, and any name.

    Raises:
        UsageError: the namespace is empty or has a slash.
    """
    if "/" in namespace or not namespace:
        raise UsageError(f"namespace is {namespace!r}; give a name without a slash")
    _FACTORIES[namespace] = factory
    _IDS.pop(namespace, None)
    if ids is not None:
        _IDS[namespace] = ids


def register_adapter(kind: type, adapter: Callable[..., MultiAgentVectorEnv]) -> None:
    """Let `as_multi_agent` convert instances of `kind` by `adapter(env, **options)`."""
    _ADAPTERS[_name(kind)] = adapter


def as_multi_agent(env: Any, **options: Any) -> MultiAgentVectorEnv:
    """Convert an env of another library to a `MultiAgentVectorEnv`, which is returned unchanged.

    An adapter of the same env that was made before can no longer be used.

    Args:
        env: an instance of a registered type; any object with `num_envs`, `step` and `reset`, as of
            GPU simulators (`BatchedEnv`); or a function without arguments (or a class) that makes
            one: with `num_envs=8` it is called 8 times, if the adapter can batch single envs.
        options: of the adapter. `max_steps` shortens the episodes of an env with a time limit of
            its own (Gymnasium, PettingZoo), and is refused beyond it; make the env with another:
            `as_multi_agent(lambda: gymnasium.make(id, max_episode_steps=500))`.

    Raises:
        UsageError: no adapter is registered for the type of `env`.
    """
    check_defaults()
    if inspect.isroutine(env) or isinstance(env, type | functools.partial):
        if "num_envs" in options:
            options["make_another"] = env
        env = env()
    if isinstance(env, MultiAgentVectorEnv):
        return env
    adapter = _adapter_of(type(env))
    if (
        adapter is None
        and not isinstance(env, type)
        and all(hasattr(env, name) for name in ("num_envs", "step", "reset"))
    ):
        adapter = _load("gymnasium.batched:BatchedEnv.from_raw")  # a convention without a class
    if adapter is not None:
        return _only_holder(adapter(env, **options), env)
    if isinstance(env, str):
        name = env if "/" in env else f"gymnasium/{env}"
        raise UsageError(f"cannot wrap the name {env!r}; make the env first: make({name!r})")
    raise UsageError(
        f"cannot wrap a {_name(type(env))}; known are MultiAgentVectorEnv, "
        f"{', '.join(sorted(_ADAPTERS))}, and functions that make one of these. For your own type, "
        "call diffsurrogate.register_adapter(YourEnv, function), or subclass diffsurrogate.TorchEnv"
    )


def check_adapted(env: Any, cannot: str, how: str | None = None) -> None:
    """Refuse what is no `MultiAgentVectorEnv`.

    Args:
        env: what a user gave.
        cannot: what cannot be done with it, such as "PPO cannot train on".
        how: to adapt it, with {} for the env; None for `as_multi_agent`.

    Raises:
        UsageError: it is none.
    """
    if isinstance(env, MultiAgentVectorEnv):
        return
    given, name, usual = f"a {type(env).__name__}", "env", "adapt it: as_multi_agent({})"
    if isinstance(env, str):
        given, name, usual = f"the name {env!r}", f"make({env!r})", "give {}"
    elif isinstance(env, type):
        given, name = f"the class {env.__name__}", env.__name__
    raise UsageError(f"{cannot} {given}; {(how or usual).format(name)}")


def _only_holder(adapted: MultiAgentVectorEnv, raw: Any) -> MultiAgentVectorEnv:
    """Return the adapter of `raw`, after which earlier ones of the same env have given up."""
    if adapted.shares_simulator:
        inner = getattr(raw, "unwrapped", raw)
        for other, held in list(_HELD.items()):
            if held is inner:
                other.give_up()
                del _HELD[other]
        _HELD[adapted] = inner
    return adapted


def _adapter_of(kind: type) -> Callable[..., MultiAgentVectorEnv] | None:
    """Return the adapter of the nearest registered base class."""
    for ancestor in kind.__mro__:
        if _name(ancestor) in _ADAPTERS:
            return _load(_ADAPTERS[_name(ancestor)])
    return None


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _load(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """Import an adapter below `wrappers` when it is first needed."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = operator.attrgetter(name)(
        importlib.import_module(f"diffsurrogate.wrappers.{module}")
    )
    return found


def usable_device(device: torch.device | str) -> torch.device:
    """Return the device, if it can be used.

    Raises:
        UsageError: it is unknown or cannot be used.
    """
    name = str(device)
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(
            f"device {name!r} is not known; use cpu, cuda or cuda:<number> (--device cpu)"
        )
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {name!r} cannot be used ({reason}); use cpu (--device cpu)"
        ) from error
    return found
