"""Checks of configurations, and their conversion from and to plain values."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar, cast, get_args, get_origin, get_type_hints

import dacite
import numpy as np

from diffsurrogate.errors import UsageError, did_you_mean

T = TypeVar("T")


def require_range(
    config: object, *names: str, low: float = float("-inf"), high: float = float("inf")
) -> None:
    """Refuse fields of a configuration outside [low, high]; NaN always is.

    And what is no whole number, in a field of whole numbers.
    """
    kinds = get_type_hints(type(config))
    for name in names:
        value = getattr(config, name)
        if kinds.get(name) in (int, int | None):
            require_whole(name, value)
        if not low <= value <= high:
            bound = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g}]"
            raise UsageError(f"{name} is {value}; it must be {bound}")


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether it is a whole number: 2 and NumPy's are, True, 2.0 and 1e3 are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_whole(name: str, value: object, *, low: int | None = None) -> None:
    """Refuse what is no whole number, or one below `low`."""
    if not is_whole(value):
        raise UsageError(f"{name} is {value!r}; it must be a whole number, such as 10, not 10.0")
    if low is not None and value < low:
        raise UsageError(f"{name} is {value}; it must be at least {low}")


def require_choices(config: object) -> None:
    """Refuse values of `Literal` fields that are not among the literals."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal:
            require_choice(name, getattr(config, name), get_args(kind))


def require_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is none of the choices, naming the nearest."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{name} is {value!r}; it must be one of {choices}{hint}")


def changed_to(kind: type[T], config: Any, **given: Any) -> T:
    """Return a configuration of another class: `given`, what both have, and its defaults."""
    both = {part.name for part in fields(cast(Any, kind)) if part.init} & {
        part.name for part in fields(config)
    }
    return kind(**{name: getattr(config, name) for name in both} | given)


def config_from_dict(kind: type[T], content: dict[str, Any]) -> T:
    """Build a configuration from the plain values of `dataclasses.asdict`.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type.
    """
    config = dacite.Config(type_hooks={Path: Path}, cast=[tuple], strict=True)
    try:
        return dacite.from_dict(kind, content, config)
    except dacite.DaciteError as error:
        raise UsageError(
            f"the saved configuration does not fit this version of {kind.__name__} ({error}); "
            "use the version that wrote it"
        ) from error


def by_dotted_name(content: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted names; empty ones are values."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        below = isinstance(value, dict) and bool(value)
        found |= by_dotted_name(value, f"{path}{name}.") if below else {f"{path}{name}": value}
    return found


def check_same_config(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse a checkpoint of another configuration, naming the differences."""
    found = [f"{path} was {was}, is {now}" for path, was, now in differences(saved, current)]
    if found:
        raise UsageError(
            "the checkpoint was written with another configuration: "
            f"{'; '.join(found[:5])}; load it with its original configuration"
        )


def differences(saved: Any, current: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two configurations differ: dotted name, saved value, current value."""
    if isinstance(saved, dict) and isinstance(current, dict):
        names = [*saved, *(name for name in current if name not in saved)]
        return [
            difference
            for name in names
            for difference in differences(
                saved.get(name), current.get(name), f"{path}.{name}" if path else name
            )
        ]
    if isinstance(saved, list | tuple) and isinstance(current, list | tuple):
        same = tuple(saved) == tuple(current)
    else:
        same = saved == current
    return [] if same else [(path, saved, current)]
