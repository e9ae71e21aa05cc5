"""`diffsurrogate envs`: the ids there are."""

from dataclasses import dataclass

import tyro

from diffsurrogate.envs.registry import known_ids, namespaces
from diffsurrogate.errors import UsageError

_REMARKS = {
    "jaxmarl": "state=True shows SMAX's world state to critics; SMAX and hanabi close choices",
    "mamujoco": "state=True shows the whole robot to critics",
    "mpe2": "state=True shows what all agents see to critics",
    "pettingzoo": "state=True shows the global state to critics, where there is one",
}
"""What namespaces offer beyond observations and actions."""


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
    if ids is None:
        return f"# {namespace}/...: any id the library knows"
    remark = _REMARKS.get(namespace)
    return "\n".join(ids if remark is None else [f"# {namespace}/...: {remark}", *ids])
