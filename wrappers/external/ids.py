"""Envs of ours by name: errors that say what is near, and what an env takes."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from diffsurrogate.errors import UsageError

Env = TypeVar("Env")


def make_by_name(
    namespace: str,
    kinds: Mapping[str, Callable[..., Env]],
    name: str,
    options: Mapping[str, Any],
    *,
    common: Sequence[str] = (),
) -> Env:
    """Call what a name stands for.

    Args:
        namespace: of the ids, for messages.
        kinds: what makes an env, by name; it says what it takes.
        name: what follows the slash of an id.
        options: keywords.
        common: what all kinds take besides, by `**`.

    Raises:
        UsageError: there is no such name, or it does not take an option.
    """
    if name not in kinds:
        close = difflib.get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"unknown env {namespace}/{name}; known: {', '.join(kinds)}{hint}")
    parameters = inspect.signature(kinds[name]).parameters.values()
    own = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
    known = [*own, *common]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"{namespace}/{name} does not take {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    return kinds[name](**options)
