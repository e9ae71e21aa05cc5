"""Our own torch-native envs, ids `diffsurrogate/<name>`."""

import difflib
import inspect
from typing import Any

from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.cartpole import CartPoleSwingUp

ENVS: dict[str, type[CartPoleSwingUp]] = {"cartpole-swingup": CartPoleSwingUp}


def ids() -> list[str]:
    """Return the names of the envs."""
    return list(ENVS)


def make(name: str, **options: Any) -> MultiAgentVectorEnv:
    """Make a native env by name.

    Raises:
        UsageError: there is no such env, or it does not take an option.
    """
    if name not in ENVS:
        close = difflib.get_close_matches(name, ENVS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"unknown env diffsurrogate/{name}; known: {', '.join(ENVS)}{hint}")
    known = inspect.signature(ENVS[name].__init__).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"diffsurrogate/{name} does not take {', '.join(unknown)}; it takes "
            f"{', '.join(n for n in known if n != 'self')}"
        )
    return ENVS[name](**options)
