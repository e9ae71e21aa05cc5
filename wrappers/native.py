"""Our own torch-native envs, ids `diffsurrogate/<name>`."""

import difflib
from typing import Any

from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.cartpole import CartPoleSwingUp

ENVS: dict[str, type[CartPoleSwingUp]] = {"cartpole-swingup": CartPoleSwingUp}


def make(name: str, **options: Any) -> MultiAgentVectorEnv:
    """Make a native env by name.

    Raises:
        UsageError: there is no such env.
    """
    if name not in ENVS:
        close = difflib.get_close_matches(name, ENVS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"unknown env diffsurrogate/{name}; known: {', '.join(ENVS)}{hint}")
    return ENVS[name](**options)
