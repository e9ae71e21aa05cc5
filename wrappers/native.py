"""Our own torch-native envs, ids `diffsurrogate/<name>`."""

from typing import Any

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.wrappers.by_name import make_by_name
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
    return make_by_name("diffsurrogate", ENVS, name, options)
