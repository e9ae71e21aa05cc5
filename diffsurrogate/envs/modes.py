"""What of torch's modes and defaults would break an env or a training: undone, or refused."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError

_Value = TypeVar("_Value")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def usable(value: _Value) -> _Value:
    """Return a copy of a tensor made in inference mode, which autograd could not use later."""
    if isinstance(value, Tensor) and value.is_inference():
        with torch.inference_mode(False), torch.no_grad():
            return value.clone()  # type: ignore[return-value]
    return value


def outside_inference_mode(method: _Method) -> _Method:
    """Let a method called in `torch.inference_mode()` run without a graph in ordinary mode.

    What it makes then outlives the mode: envs can be stepped, and trainers trained, later.
    """

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(usable, args))
        kwargs = {name: usable(value) for name, value in kwargs.items()}
        if not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return cast(_Method, run)


def keep_outside(cls: type, names: frozenset[str]) -> None:
    """Let those of these methods that a class defines run `outside_inference_mode`."""
    for name in names & vars(cls).keys():
        setattr(cls, name, outside_inference_mode(vars(cls)[name]))


def check_grad_mode(what: str) -> None:
    """Refuse to train where torch keeps no graph.

    Raises:
        UsageError: in `torch.inference_mode()` or `torch.no_grad()`.
    """
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        mode = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        raise UsageError(
            f"{what} was called under torch.{mode}(), where nothing can be learned; call it outside"
        )


def check_defaults() -> None:
    """Refuse default dtypes and devices of torch that networks and envs are not made for.

    Raises:
        UsageError: `torch.set_default_dtype` or `torch.set_default_device` was called.
    """
    if torch.get_default_dtype() != torch.float32:
        raise UsageError(
            f"torch's default dtype is {torch.get_default_dtype()} (torch.set_default_dtype), but "
            "observations, actions and networks are float32 here; call "
            "torch.set_default_dtype(torch.float32), and where a simulation computes in another, "
            "make its tensors with dtype=... and return .float()"
        )
    if torch.get_default_device().type != "cpu":
        raise UsageError(
            f"torch's default device is {torch.get_default_device()} (torch.set_default_device), "
            'but only what is asked for lies there: call torch.set_default_device("cpu"), and give '
            "the env its device (device=...), which trainers follow"
        )
