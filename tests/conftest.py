"""One thread, so that figures and timings mean the same everywhere; types checked at less cost.

Nothing here may import diffsurrogate at the top: shapes are checked only in modules imported after
pytest's start.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
import torch

torch.set_num_threads(1)
SHAPES_CHECKED = jaxtyping.jaxtyped


def names_shapes(hint: Any) -> bool:
    is_one = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_one or any(map(names_shapes, get_args(hint)))


def checked(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Stand in for jaxtyping's decorator, which binds arguments and checks them twice.

    Where no annotation names a shape, the type checker alone says the same.
    """
    if function is None:
        return functools.partial(checked, typechecker=typechecker)
    try:
        hints = get_type_hints(function).values() if inspect.isfunction(function) else [None]
    except (NameError, TypeError):  # of a class defined further down, or not subscriptable
        hints = [None]
    if None in hints or any(map(names_shapes, hints)):
        return SHAPES_CHECKED(function, typechecker=typechecker)
    types_checked = typechecker(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        disabled = jaxtyping.config.jaxtyping_disable
        return (function if disabled else types_checked)(*args, **kwargs)

    return call


jaxtyping.jaxtyped = checked
