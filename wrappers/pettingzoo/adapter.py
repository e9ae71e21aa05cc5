"""PettingZoo's parallel envs as multi-agent vector envs; `ids.py` makes them by id.

PettingZoo is imported here and in `export.py` only; install it as the extra `pettingzoo`,
or with the multi-particle envs as `mpe2`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import (
    ExternalEnv,
    check_distinct,
    env_seeds,
    sub_envs_of,
)
from diffsurrogate.wrappers.external.agent_rows import MASK, Layout, LayoutForm, name_of
from diffsurrogate.wrappers.external.infos import of_each
from diffsurrogate.wrappers.external.spaces import bounds_of
from diffsurrogate.wrappers.pettingzoo.parallel import ParallelEnvSlot

try:
    from pettingzoo.utils.conversions import aec_to_parallel
    from pettingzoo.utils.env import AECEnv, ParallelEnv
    from pettingzoo.utils.wrappers import BaseParallelWrapper
except ImportError as error:
    raise UsageError(
        'PettingZoo envs need PettingZoo, an optional extra: pip install "diffsurrogate'
        f'[pettingzoo]", or "diffsurrogate[mpe2]" for ids mpe2/... ({error})'
    ) from error


class PettingZooEnv(ExternalEnv):
    """Copies of a PettingZoo parallel env, stepped one after another in this process.

    Values are the raw envs' own, as float32. Boxes and other observations of fixed size are
    flattened; agents whose observations or actions are smaller than others' are padded with zeros
    (`observation_mask`, `valid_action_dims`), and padded actions never reach the raw env.
    `Discrete(K)` actions become one-hot rows (`discrete_actions`), of which the raw env gets the
    largest of the agent's own K entries. Each choice of a `MultiDiscrete` action is made by its own
    agent ("pursuer_0/0", "pursuer_0/1", ...), which sees what the raw agent sees and earns an equal
    share of its reward, so that returns, sums over agents, are the raw env's.

    Where observations or infos have an "action_mask", it says which choices are open now
    (`action_mask_slice`), and the raw env gets the largest of these. One in infos must be there
    from the
    reset on: the first copy is reset once, when it is taken over, to look for it.

    A copy is over when none of its agents is left. It *terminated* if every agent that was alive
    before the last step terminated in it, and was *truncated* if any of them was truncated instead.
    Agents that ended earlier observe and earn zero from the next step on, until all is over, and
    policies learn nothing from what they are said to do (`alive_mask`).

    `max_steps` is counted here as well, so that `randomise_episode_phase` works: a copy that it
    cuts is reset. Some envs call their own time limit a termination (PettingZoo's multiwalker):
    give a `max_steps` below it. The state cannot be saved: a training run that is resumed starts
    new episodes.
    """

    library = "PettingZoo"
    takes_reset_options = True

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
        self._layout = layout = Layout(raws[0], masks_in_infos=masked, state_size=size)
        for raw in raws[1:]:
            if not layout.same_as(Layout(raw)):
                raise UsageError(
                    f"the copies of {name_of(raw)} must have the same agents and spaces, but they "
                    "differ; make all of them with the same options"
                )
        super().__init__(
            num_envs=len(raws),
            agents=layout.names,
            observation_space=layout.observation_box,
            action_space=layout.action_box,
            limits=(*map(time_limit, raws), max_steps),
            seed=seed,
            device=device,
            check_bounds=False,  # each agent's own are checked, by its name
        )
        self._step_checks.name = name_of(raws[0])
        layout.describe(self)
        self.offers_state = offers_state(raws[0])
        self.raws = raws
        """The raw envs."""
        self.metadata = getattr(raws[0], "metadata", {}) | {
            "autoreset_mode": AutoresetMode.SAME_STEP
        }
        self.render_mode = getattr(raws[0], "render_mode", None)
        bounds = {
            agent: bounds_of(space) if check_bounds else None
            for agent, space in zip(layout.agents, layout.seen_spaces, strict=True)
        }
        self._slots = [
            ParallelEnvSlot(index, raw, layout, bounds) for index, raw in enumerate(raws)
        ]
        self._obs = np.zeros((self.num_envs, self.num_agents, self.obs_dim), np.float32)
        self._cut = np.zeros(self.num_envs, dtype=bool)

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

    def _pictures(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], ...]:
        return tuple(self.raws[index].render() for index in indices)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the raw envs."""
        for raw in self.raws:
            raw.close()

    # --- the env protocol -----------------------------------------------------------------------

    @property
    def alive_mask(self) -> Tensor | None:
        """(env, agent) bool: agents that have not ended before the others; None where all go on."""
        rows = np.stack([slot.alive_mask() for slot in self._slots])
        return None if rows.all() else self._tensor(rows)

    @property
    def raw_form(self) -> LayoutForm:
        """How PettingZoo's env gives observations and takes actions: dicts by its agents."""
        return LayoutForm(self._layout, super().raw_form)

    def _reset_all(self, seed: int | None) -> Tensor:
        seed = self._seed_of_reset(seed)
        seeds = [None] * self.num_envs if seed is None else env_seeds(seed, self.num_envs)
        for slot, own_seed in zip(self._slots, seeds, strict=True):
            self._obs[slot.index] = slot.reset(own_seed, self._reset_options)
        return self._tensor(self._obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        for index in np.flatnonzero(mask.cpu().numpy()):
            self._obs[index] = self._slots[index].reset(None, self._reset_options)
        return self._tensor(self._obs)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns = self._layout.external_actions(action.detach().cpu().numpy())
        reward = np.zeros((self.num_envs, self.num_agents), np.float32)
        terminated = np.zeros(self.num_envs, dtype=bool)
        for index, slot in enumerate(self._slots):
            own = [column[index] for column in columns]
            result = slot.step(dict(zip(self._layout.agents, own, strict=True)))
            self._obs[index], reward[index], terminated[index], self._cut[index] = result
        self._tell(of_each([slot.told for slot in self._slots]))
        return self._tensor(self._obs), self._tensor(reward), self._tensor(terminated)

    def _awaited(self) -> str:
        busy = [slot for slot in self._slots if slot.busy]
        return f"env {busy[0].index} ({name_of(busy[0].raw)})" if busy else ""

    def _cut_short(self) -> Tensor:
        return self._tensor(self._cut)

    def _tensor(self, rows: NDArray[Any]) -> Tensor:
        """Return a copy on the env's device."""
        return torch.from_numpy(rows.copy()).to(self.device)


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
