"""Which ends of a JaxMARL env are its time limit: JaxMARL has one flag for all."""

from typing import Any, TypeGuard

from diffsurrogate.wrappers.jaxmarl.library import SMAX, CoinGame, EnemySMAX, SimpleMPE


def time_limit(raw: Any) -> int | None:
    """Return after how many steps an env ends by itself, None if nothing says so.

    That is its `max_steps`, except in the multi-particle envs and SMAX, which look at the count
    before the step and so make one step more.
    """
    if isinstance(raw, CoinGame):
        return int(raw.num_inner_steps * raw.num_outer_steps)
    limit = getattr(raw, "max_steps", None)
    if not _is_limit(limit):
        return None
    return limit + isinstance(raw, SimpleMPE | SMAX | EnemySMAX)


def without_limit(raw: Any) -> Any | None:
    """Return a twin of an env whose time limit is out of reach; None if there is no `max_steps`.

    Where an env ends and its twin does not, time was all that ended it. The twin shares everything
    else with the env, which stays as it is; `max_steps` may also be that of an env inside, `_env`.
    """
    changed: dict[str, Any] = {}
    held = vars(raw)
    if _is_limit(held.get("max_steps")):
        changed["max_steps"] = 2 * held["max_steps"] + 2
    if hasattr(held.get("_env"), "step_env"):
        inner = without_limit(held["_env"])
        changed |= {} if inner is None else {"_env": inner}
    if not changed:
        return None
    twin = object.__new__(type(raw))
    vars(twin).update(held | changed)
    return twin


def _is_limit(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
