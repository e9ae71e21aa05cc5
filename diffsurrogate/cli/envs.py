"""`diffsurrogate envs`: the ids there are."""

from dataclasses import dataclass

import tyro

from diffsurrogate.errors import UsageError
from diffsurrogate.registry import known_ids, namespaces


@dataclass(frozen=True, kw_only=True)
class EnvsOptions:
    """List the ids of envs, one per line; lines that begin with # are remarks.

    What an id needs may be missing all the same: making the env tells.
    """

    namespace: tyro.conf.Positional[str | None] = None
    """Such as vmas or gymnasium; None for all."""


def list_envs(options: EnvsOptions) -> int:
    """Print the ids.

    Raises:
        UsageError: the namespace asked for is not known, or a package that it needs is missing.
    """
    if options.namespace is not None:
        print(_text(options.namespace))
        return 0
    for namespace in namespaces():
        try:
            print(_text(namespace))
        except UsageError as error:
            print(f"# {namespace}/...: {' '.join(str(error).split())}")
    return 0


def _text(namespace: str) -> str:
    ids = known_ids(namespace)
    return f"# {namespace}/...: any id the library knows" if ids is None else "\n".join(ids)
