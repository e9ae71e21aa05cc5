"""Numbers that other libraries' envs report in their infos, one per env."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEFT_OUT = frozenset(
    {"final_obs", "final_observation", "final_info", "terminal_observation", "terminal_obs"}
    | {"observations", "TimeLimit.truncated", "time_outs", "action_mask", "value_obs"}
)
"""Keys that are the libraries' own."""
Numbers = dict[str, NDArray[np.float32]]


def of_batch(infos: Mapping[str, Any], num_envs: int) -> Numbers:
    """Return the numbers `(env,)` of a vector env's infos, NaN where an env reported none.

    Nested dicts are named by paths, such as "episode/r". Of envs that were reset within the step,
    those in `final_info` are taken, and what `RecordEpisodeStatistics` adds around the vector env.
    """
    found = _arrays(infos, num_envs)
    final = infos.get("final_info")
    if not isinstance(final, dict):
        return found
    over = np.asarray(infos.get("_final_info", False))  # the rest of these is of the reset
    last = {name: told for name, told in found.items() if name.startswith("episode/")}
    last, nothing = last | _arrays(final, num_envs), np.full(num_envs, np.nan, np.float32)
    each = {
        name: np.where(over, last.get(name, nothing), found.get(name, nothing))
        for name in [*found, *(name for name in last if name not in found)]
    }
    return {name: values for name, values in each.items() if not np.isnan(values).all()}


def _arrays(
    infos: Mapping[str, Any], num_envs: int, path: str = "", there: NDArray[np.bool_] | bool = True
) -> Numbers:
    """Return the numbers of those envs that are `there` (env,), by path."""
    found: Numbers = {}
    for key, value in infos.items():
        if not isinstance(key, str) or key.startswith("_") or key in LEFT_OUT:
            continue
        told = np.logical_and(there, infos.get(f"_{key}", True))
        if isinstance(value, dict):
            found |= _arrays(value, num_envs, f"{path}{key}/", told)
        elif isinstance(value, np.ndarray) and value.shape[:1] == (num_envs,):
            if value.dtype.kind == "O":  # such as tensors
                found |= of_each([{path + key: one} for one in value])
            elif value.dtype.kind in "biuf" and value.size == num_envs:
                found[path + key] = np.where(told, value.ravel(), np.nan).astype(np.float32)
    return found


def keep_fractions(raw: Any) -> None:
    """Let an unwrapped vector env of Gymnasium gather 0 of one copy and 0.7 of the next as floats.

    By itself it writes both into an array of the first one's type, where 0.7 becomes 0. Does
    nothing to other vector envs.
    """
    gather = getattr(raw, "_add_info", None)
    if gather is not None:
        raw._add_info = functools.partial(_gather, gather)


def _gather(gather: Any, infos: dict[str, Any], info: dict[str, Any], index: int) -> Any:
    for key, value in info.items():
        held, number = infos.get(key), one_number(value)
        if isinstance(held, np.ndarray) and isinstance(number, bool | int | float | np.number):
            if held.dtype.kind in "biuf":
                infos[key] = held.astype(np.promote_types(held.dtype, np.asarray(number).dtype))
    return gather(infos, info, index)


def one_number(value: Any) -> Any:
    """Return the number in an array or tensor of one entry; anything else as it is."""
    if isinstance(value, np.ndarray | Tensor) and math.prod(value.shape) == 1:
        return value.item()
    return value


def of_each(infos: Sequence[Any]) -> Numbers:
    """Return the numbers `(env,)` of one info per env, as `of_batch`."""
    found: Numbers = {}
    for index, info in enumerate(infos):
        for name, value in _scalars(info).items():
            found.setdefault(name, np.full(len(infos), np.nan, np.float32))[index] = value
    return found


def of_list(infos: Sequence[Any]) -> Numbers:
    """Return the numbers `(env,)` of a vector env's infos as a list, as `of_batch`."""
    each = [info.get("final_info", info) for info in infos]
    around = [{"episode": info["episode"]} if "episode" in info else {} for info in infos]
    return of_each(each) | of_each(around)


def mean_of_agents(infos: Any) -> dict[str, float]:
    """Return numbers of infos by agent, each the mean over the agents that have it."""
    values: dict[str, list[float]] = {}
    for info in infos.values() if isinstance(infos, dict) else ():
        for name, value in _scalars(info).items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}


def _scalars(info: Any, path: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in info.items() if isinstance(info, Mapping) else ():
        if not isinstance(key, str) or key in LEFT_OUT:
            continue
        value = one_number(value)
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{path}{key}/")
        elif isinstance(value, bool | int | float | np.number | np.bool_):
            found[path + key] = float(value)
    return found


def of_tensors(infos: Any, num_envs: int, path: str = "") -> dict[str, Tensor]:
    """Return the numbers `(env,)` of infos of tensors, by path; single numbers hold for all."""
    found: dict[str, Tensor] = {}
    for key, value in infos.items() if hasattr(infos, "items") else ():
        if not isinstance(key, str) or key.startswith("_") or key in LEFT_OUT:
            continue
        if hasattr(value, "items"):
            found |= of_tensors(value, num_envs, f"{path}{key}/")
        elif isinstance(value, Tensor) and value.numel() in (1, num_envs) and value.ndim < 3:
            flat = value.detach().reshape(-1).to(torch.float32)
            found[path + key] = flat.expand(num_envs).clone()
        elif isinstance(value, bool | int | float):
            found[path + key] = torch.full((num_envs,), float(value))
    return found
