"""Learned gradients for any simulator: wrap an env, train it with SHAC.

from diffsurrogate import SHAC, LearnedDiffWrapper, make

env = LearnedDiffWrapper(make("paper/dispersion", num_envs=64, n_agents=1))
SHAC(env).learn(total_steps=500_000, progress_bar=True)  # SHAC++
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # __init__.pyi
__version__ = version("diffsurrogate")


def __getattr__(name: str) -> Any:
    """Import a public name, or a module such as `diffsurrogate.wrappers`, on first access."""
    if name not in __all__ and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    return _public(name)
