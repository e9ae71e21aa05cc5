"""Envs of several agents, of whichever library: one copy after another, in rows of all agents."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import ExternalEnv, env_seeds
from diffsurrogate.wrappers.external.agent_rows import Layout, LayoutForm, name_of
from diffsurrogate.wrappers.external.infos import of_each
from diffsurrogate.wrappers.external.parallel import ParallelEnvSlot
from diffsurrogate.wrappers.external.spaces import bounds_of


class AgentsEnv(ExternalEnv):
    """Copies of an env of several agents with PettingZoo's parallel API, stepped one after another.

    Values are the raw envs' own, as float32. Boxes and other observations of fixed size are
    flattened; agents whose observations or actions are smaller than others' are padded with zeros
    (`observation_mask`, `valid_action_dims`), and padded actions never reach the raw env.
    `Discrete(K)` actions become one-hot rows (`discrete_actions`), of which the raw env gets the
    largest of the agent's own K entries. Each choice of a `MultiDiscrete` action is made by its own
    agent ("pursuer_0/0", "pursuer_0/1", ...), which sees what the raw agent sees and earns an equal
    share of its reward, so that returns, sums over agents, are the raw env's.

    Where observations or infos have an "action_mask", it says which choices are open now
    (`action_mask_slice`), and the raw env gets the largest of these.

    A copy is over when none of its agents is left. It *terminated* if every agent that was alive
    before the last step terminated in it, and was *truncated* if any of them was truncated instead.
    Agents that ended earlier observe and earn zero from the next step on, until all is over, and
    policies learn nothing from what they are said to do (`alive_mask`).

    `max_steps` is counted here as well, so that `randomise_episode_phase` works: a copy that it
    cuts is reset. The state cannot be saved: a training run that is resumed starts new episodes.
    """

    takes_reset_options = True
    advice: ClassVar[str]
    """Ends every message about what a raw env did."""

    def __init__(
        self,
        raws: list[Any],
        *,
        limits: Iterable[int | None],
        max_steps: int | None,
        seed: int | None,
        device: torch.device | str,
        check_bounds: bool,
        masks_in_infos: bool = False,
        state_size: int = 0,
    ) -> None:
        """Take over `raws`, which are alike, each another object.

        Args:
            raws: parallel envs.
            limits, max_steps, seed, device, check_bounds: see `ExternalEnv`.
            masks_in_infos, state_size: see `Layout`.

        Raises:
            UsageError: the spaces are not supported, or the copies differ.
        """
        self._layout = layout = Layout(
            raws[0], masks_in_infos=masks_in_infos, state_size=state_size
        )
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
            limits=limits,
            max_steps=max_steps,
            seed=seed,
            device=device,
            check_bounds=False,  # each agent's own are checked, by its name
        )
        self._step_checks.name = name_of(raws[0])
        layout.describe(self)
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
            ParallelEnvSlot(index, raw, layout, bounds, self.advice)
            for index, raw in enumerate(raws)
        ]
        self._obs = np.zeros((self.num_envs, self.num_agents, self.obs_dim), np.float32)
        self._cut = np.zeros(self.num_envs, dtype=bool)

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
        """How the raw env gives observations and takes actions: dicts by its agents."""
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
