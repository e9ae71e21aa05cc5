"""PettingZoo's parallel envs as multi-agent vector envs; `ids.py` makes them by id.

PettingZoo is imported here and in `export.py` only; install it as the extra `pettingzoo`,
or with the multi-particle envs as `mpe2`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_distinct, env_seeds, sub_envs_of
from diffsurrogate.wrappers.external.agent_rows import MASK, name_of
from diffsurrogate.wrappers.external.agents import AgentsEnv

try:
    from pettingzoo.utils.conversions import aec_to_parallel
    from pettingzoo.utils.env import AECEnv, ParallelEnv
    from pettingzoo.utils.wrappers import BaseParallelWrapper
except ImportError as error:
    raise UsageError(
        'PettingZoo envs need PettingZoo, an optional extra: pip install "diffsurrogate'
        f'[pettingzoo]", or "diffsurrogate[mpe2]" for ids mpe2/... ({error})'
    ) from error


class PettingZooEnv(AgentsEnv):
    """Copies of a PettingZoo parallel env, stepped one after another in this process.

    See `AgentsEnv`. Where infos have an "action_mask", it must be there from the reset on: the
    first copy is reset once, when it is taken over, to look for it. Some envs call their own time
    limit a termination (PettingZoo's multiwalker): give a `max_steps` below it.
    """

    library = "PettingZoo"
    advice = "pettingzoo.test.parallel_api_test(env) checks a parallel env"

    def __init__(
        self,
        raws: list[Any],
        *,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        state: bool = False,
        check_bounds: bool = True,
    ) -> None:
        """Take over `raws`, which must not be used directly from now on.

        Args:
            raws: parallel envs that are alike, each another object.
            max_steps, seed, device, state, check_bounds: see `ExternalEnv`; the time limit is
                `max_cycles`, the state is `state()`.

        Raises:
            UsageError: the spaces are not supported, the copies differ, or there is no state.
        """
        check_distinct(raws)
        masked, size = _probe(raws[0], seed, state=state)
        super().__init__(
            raws,
            limits=map(time_limit, raws),
            max_steps=max_steps,
            seed=seed,
            device=device,
            check_bounds=check_bounds,
            masks_in_infos=masked,
            state_size=size,
        )
        self.offers_state = offers_state(raws[0])

    @classmethod
    def from_raw(
        cls,
        raw: Any,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt a parallel env, or an AEC env that can become one; a function makes others."""
        raws = sub_envs_of(raw, num_envs, make_another, "PettingZoo env")
        return super().from_raw([as_parallel(one) for one in raws], **options)


def offers_state(raw: Any) -> bool:
    """Return whether an env, or a wrapper around it, defines its own `state()`."""

    def own(layer: Any) -> bool:  # PettingZoo's layers pass on what lies below
        return not type(layer).state.__module__.startswith("pettingzoo.utils")

    layer = raw
    while isinstance(layer, BaseParallelWrapper):
        if own(layer):
            return True
        layer = layer.env
    inner = layer.unwrapped
    return own(inner) and getattr(inner, "state_space", ...) is not None


def _probe(raw: Any, seed: int | None, *, state: bool) -> tuple[bool, int]:
    """Reset an env to see whether infos have masks, and, if asked to, the size of its state.

    Raises:
        UsageError: it is to have a state, but has none.
    """
    choices = [
        isinstance(raw.action_space(agent), spaces.Discrete | spaces.MultiDiscrete)
        for agent in getattr(raw, "possible_agents", None) or []
    ]
    if not (state or all(choices)):
        return False, 0
    try:
        _, infos = raw.reset(seed=None if seed is None else env_seeds(seed, 1)[0])
        size = np.asarray(raw.state(), dtype=np.float32).size if state else 0
    except Exception as error:
        if state and isinstance(error, NotImplementedError):
            raise UsageError(
                f"{name_of(raw)} has no global state, which state=True asks for; leave it out, or "
                "give the env a method state() that returns numbers"
            ) from error
        if state:
            raise UsageError(
                f"{name_of(raw)} gives no global state: {type(error).__name__}: {error}; mend its "
                "state(), or leave state=False"
            ) from error
        return False, 0  # the first reset says what is wrong
    infos = infos.values() if isinstance(infos, dict) else ()
    return any(isinstance(info, dict) and MASK in info for info in infos), size


def time_limit(raw: Any) -> int | None:
    """Return after how many steps `raw` ends by itself: PettingZoo's convention `max_cycles`."""
    inner = raw.unwrapped
    for holder in (inner, getattr(inner, "env", None)):  # the latter in the family sisl
        limit = getattr(holder, "max_cycles", None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def as_parallel(raw: Any) -> Any:
    """Return a parallel env: `raw` itself, or what PettingZoo makes of an AEC env.

    Raises:
        UsageError: agents take turns in it, or it is neither.
    """
    if isinstance(raw, ParallelEnv):
        return raw
    if not isinstance(raw, AECEnv):
        raise UsageError(f"the function gave a {type(raw).__name__}, which is no PettingZoo env")
    if not raw.metadata.get("is_parallelizable", False):
        raise UsageError(
            f"{name_of(raw)} is an AEC env whose agents take turns; only parallel envs are "
            "supported. If its world changes only after the last agent of each round, set "
            'metadata["is_parallelizable"] = True'
        )
    return aec_to_parallel(raw)
