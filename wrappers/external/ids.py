"""Built-in envs by id, with errors that name the nearest id and the options an env takes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from diffsurrogate.errors import UsageError, did_you_mean

Env = TypeVar("Env")


def make_by_id(
    namespace: str,
    kinds: Mapping[str, Callable[..., Env]],
    name: str,
    options: Mapping[str, Any],
    *,
    common: Sequence[str] = (),
) -> Env:
    """Make the env of a name by its kind, which says what it takes.

    All kinds take the `common` options too, by `**`.

    Raises:
        UsageError: there is no such name, or it does not take an option.
    """
    if name not in kinds:
        raise UsageError(
            f"unknown env {namespace}/{name}; known: {', '.join(kinds)}{did_you_mean(name, kinds)}"
        )
    check_names(f"{namespace}/{name}", options, [*parameters_of(kinds[name]), *common])
    return kinds[name](**options)


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the keywords that a function or class takes."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


def check_names(taker: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that `taker` does not know, with the nearest that it does."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"{taker} does not take {', '.join(unknown)}; it takes {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
