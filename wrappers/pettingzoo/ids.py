"""PettingZoo's own envs and the multi-particle ones by id: `pettingzoo/…` and `mpe2/…`."""

import difflib
import importlib
import importlib.util
import inspect
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_options
from diffsurrogate.wrappers.pettingzoo.adapter import PettingZooEnv

FAMILIES = ("atari", "butterfly", "classic", "sisl")


def ids() -> list[str]:
    """Return the names of PettingZoo's own parallel envs, whether what they need is there or not.

    Envs whose agents take turns are left out.
    """
    found = {family: _parallel_modules(f"pettingzoo.{family}") for family in FAMILIES}
    return [f"{family}/{module}" for family, modules in found.items() for module in modules]


def ids_mpe2() -> list[str]:
    """Return the names of the multi-particle envs.

    Raises:
        UsageError: the package mpe2 is missing.
    """
    if importlib.util.find_spec("mpe2") is None:
        raise UsageError(
            "ids mpe2/... need the package mpe2, an optional extra: pip install "
            '"diffsurrogate[mpe2]"'
        )
    return _parallel_modules("mpe2")


def make_mpe2(name: str, **options: Any) -> PettingZooEnv:
    """Make copies of one of mpe2's multi-particle envs, such as "simple_spread_v3"; see `make`."""
    return _make(f"mpe2/{name}", "mpe2", name, **options)


def make(name: str, **options: Any) -> PettingZooEnv:
    """Make copies of one of PettingZoo's own envs.

    Args:
        name: family and module, such as "sisl/multiwalker_v9".
        options: those of `ExternalEnv`, and what the module's `parallel_env` takes, of which
            `continuous_actions` is True if it is not given. `n_agents` is `N` where the env takes
            that.

    Raises:
        UsageError: the id or an option is not known, a package is missing, or the env's spaces are
            not supported.
    """
    family, _, module = name.rpartition("/")
    return _make(f"pettingzoo/{name}", f"pettingzoo.{family}".rstrip("."), module, **options)


def _make(
    env_id: str,
    package: str,
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
    **env_kwargs: Any,
) -> PettingZooEnv:
    check_options(env_id, num_envs, differentiable, max_steps, render_mode)
    module = _module(env_id, package, name)
    taken = inspect.signature(getattr(module, "raw_env", module.parallel_env)).parameters
    if "continuous_actions" in taken:
        env_kwargs.setdefault("continuous_actions", True)
    if "N" in taken and "n_agents" in env_kwargs:  # the same, as mpe2 calls it
        env_kwargs["N"] = env_kwargs.pop("n_agents")
    if "max_cycles" in taken and max_steps is not None:
        env_kwargs.setdefault("max_cycles", max_steps)
    if render_mode is not None:
        env_kwargs["render_mode"] = render_mode
    try:
        raws = [module.parallel_env(**env_kwargs) for _ in range(num_envs)]
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(f"{env_id} needs a package: {error}") from error
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{env_id} could not be made with {env_kwargs or 'its defaults'}: {error}; it takes "
            f"{', '.join(option for option in taken if option != 'self')}"
        ) from error
    return PettingZooEnv(
        raws,
        max_steps=max_steps,
        seed=seed,
        device=device,
        state=state,
        check_bounds=check_bounds,
    )


def _module(env_id: str, package: str, name: str) -> ModuleType:
    """Import the module of an env, which has a function `parallel_env`."""
    path = f"{package}.{name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # says to use PettingZoo's registry
            importlib.import_module(package)
            module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == "mpe2":
            raise UsageError(
                f'{env_id} needs the package mpe2, an optional extra: pip install "diffsurrogate'
                f'[mpe2]" ({error})'
            ) from error
        if error.name not in (package, path):
            raise UsageError(f"{env_id} needs a package: {error}") from error
        raise UsageError(f"unknown env {env_id}{_hint(env_id, package, name)}") from error
    except ImportError as error:
        raise UsageError(f"{env_id} needs a package: {error}") from error
    if not hasattr(module, "parallel_env"):
        raise UsageError(
            f"{env_id} has no parallel_env; envs whose agents take turns are not supported"
            f"{_hint(env_id, package, name)}"
        )
    return module


def _hint(env_id: str, package: str, name: str) -> str:
    """Return names like that of the env that was not found, to be added to a message."""
    if package.removeprefix("pettingzoo.") not in (*FAMILIES, "mpe2"):
        families = ", ".join(FAMILIES)
        return f"; ids are pettingzoo/<family>/<name>, with the families {families}"
    known = _parallel_modules(package)
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=3) or known
    prefix = env_id.removesuffix(name)
    return f"; there are {', '.join(prefix + module for module in close)}"


def _parallel_modules(package: str) -> list[str]:
    """Return the modules with a parallel env; read, not imported: some need further packages."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in Path(folder).glob("*_v*.py")]
    return sorted(file.stem for file in files if "parallel_env" in file.read_text())
