"""JaxMARL and JAX, imported without the noise they make; this adapter's modules take them here."""

import contextlib
import io
import sys
from collections.abc import Iterator

from diffsurrogate.errors import UsageError


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing be printed, and put the standard streams back.

    JaxMARL talks about envs that it does not find, and when it is imported it leaves sys.stdout and
    sys.stderr as sys.__stdout__ and sys.__stderr__, whatever they were redirected to.
    """
    streams = ("stdout", "stderr", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in streams}
    sys.stdout = io.StringIO()
    for name in ("stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


try:
    with _undisturbed():
        import jax
        import jax.numpy as jnp
        import jaxmarl
        from jaxmarl.environments import SMAX, CoinGame, MultiAgentEnv, SimpleMPE
        from jaxmarl.environments.overcooked import overcooked_layouts
        from jaxmarl.environments.overcooked_v2 import overcooked_v2_layouts
        from jaxmarl.environments.smax.heuristic_enemy_smax_env import EnemySMAX
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
except ImportError as error:
    raise UsageError(
        "JaxMARL envs need JaxMARL and JAX, an optional extra: pip install "
        f'"diffsurrogate[jaxmarl]" ({error})'
    ) from error


__all__ = [
    "MAP_NAME_TO_SCENARIO",
    "SMAX",
    "CoinGame",
    "EnemySMAX",
    "MultiAgentEnv",
    "SimpleMPE",
    "jax",
    "jaxmarl",
    "jnp",
    "overcooked_layouts",
    "overcooked_v2_layouts",
]
