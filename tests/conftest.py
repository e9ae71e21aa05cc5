"""One thread, so that figures and timings mean the same everywhere; checks and JAX at less cost.

Nothing here may import diffsurrogate at the top: shapes are checked only in modules imported after
pytest's start.
"""

import functools
import inspect
import os
from typing import Any, get_args

import jaxtyping
import torch

torch.set_num_threads(1)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # what compiles runs once
SHAPES_CHECKED = jaxtyping.jaxtyped


def names_shapes(hint: Any) -> bool:
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(names_shapes, get_args(hint)))


def checked(function: Any = None, *, typechecker: Any) -> Any:
    """Stand in for jaxtyping's decorator, which binds arguments and checks them twice.

    Where no annotation names a shape, the type checker alone says the same.
    """
    if function is None:
        return functools.partial(checked, typechecker=typechecker)
    if function.__module__ == "diffsurrogate.envs.waiting":
        return function  # a thread: the checker draws from Python's global stream, lent to VMAS
    hints = inspect.get_annotations(function).values() if inspect.isfunction(function) else [""]
    if any(isinstance(hint, str) or names_shapes(hint) for hint in hints):  # a string may be one
        return SHAPES_CHECKED(function, typechecker=typechecker)

    @functools.cache
    def types_checked() -> Any:
        return typechecker(function)  # when first called, as most are not by a few tests

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check = not jaxtyping.config.jaxtyping_disable
        return (types_checked() if check else function)(*args, **kwargs)

    return call


jaxtyping.jaxtyped = checked
