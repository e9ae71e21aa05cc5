"""JAX, imported with its compiled functions kept on disk; this adapter's modules take it here."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

from diffsurrogate.errors import UsageError

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise UsageError(
        'this env needs JAX, an optional extra: pip install "diffsurrogate[jax]", or '
        f'"diffsurrogate[mjx]" for MuJoCo\'s physics too ({error})'
    ) from error

__all__ = ["compiler_options", "jax", "jnp"]
_MOST_BYTES = 2**31
"""What the cache may grow to; the oldest entries leave it. A limit also makes JAX lock the folder,
so that processes which compile the same thing do not read half a file."""
_QUICK_COMPILATION: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
}
"""Of a step of MJX's Hopper and its gradient: half the time to compile, and no slower run."""


@functools.cache
def compiler_options() -> dict[str, Any] | None:
    """Return XLA's options for large functions on the CPU, less those that XLA_FLAGS decides."""
    flags = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in _QUICK_COMPILATION.items() if name not in flags}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # of any kind: another version of XLA knows other options
        return None
    return options


def cache_folder() -> Path:
    """Return where compiled functions are kept, unless JAX was told of a folder."""
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(given or os.path.expanduser("~/.cache")) / "diffsurrogate" / "jax"


def keep_compiled(config: Any, folder: Path) -> None:
    """Turn JAX's persistent compilation cache on, if nobody has decided about it.

    `JAX_COMPILATION_CACHE_DIR` (or `jax.config`) names another folder,
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.

    Args:
        config: JAX's.
        folder: for what is compiled; nothing is done if it cannot be made or written to.
    """
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    config.update("jax_compilation_cache_dir", str(folder))
    if config.jax_compilation_cache_max_size == -1:
        config.update("jax_compilation_cache_max_size", _MOST_BYTES)


keep_compiled(jax.config, cache_folder())
