"""Learned gradients for any simulator: wrap an env, train it with SHAC.

from diffsurrogate import SHAC, LearnedDiffWrapper, make

env = LearnedDiffWrapper(make("paper/dispersion", num_envs=64, n_agents=1))
SHAC(env).learn(total_steps=500_000, progress_bar=True)  # SHAC++
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # __init__.pyi
__version__ = version("diffsurrogate")
