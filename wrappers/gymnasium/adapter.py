"""Gymnasium's envs of one agent as multi-agent vector envs; `ids.py` makes them by id."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import (
    check_count,
    check_distinct,
    env_seeds,
    sub_envs_of,
)
from diffsurrogate.wrappers.external.checks import IndexedEnv, keep_last, keep_options
from diffsurrogate.wrappers.external.infos import keep_fractions, of_batch, of_list
from diffsurrogate.wrappers.external.single_agent import SingleAgentEnv
from diffsurrogate.wrappers.external.spaces import bounds_of, is_too_narrow
from diffsurrogate.wrappers.gymnasium.agents import GymnasiumAgentsEnv, is_of_agents
from diffsurrogate.wrappers.gymnasium.batched import BatchedEnv, gives_tensors, is_batched

GymVectorEnv = VectorEnv[Any, Any, Any]
GymEnv = gymnasium.Env[Any, Any]


class GymnasiumEnv(SingleAgentEnv):
    """A `gymnasium.vector.VectorEnv` as a multi-agent vector env with the one agent "agent".

    Values are the raw env's own, as float32. Observations other than boxes are flattened as
    `gymnasium.spaces.flatten` does. Continuous actions keep their box; `Discrete(K)` actions become
    one-hot rows (`discrete_actions`), of which the raw env gets the largest entry.

    Of `MultiDiscrete` actions each choice is made by its own agent (see `SingleAgentEnv`).

    What is not finite, of another shape than declared or outside of the declared bounds of
    observations is refused.

    Terminations and truncations are the raw env's. `max_steps` is counted here as well, so that
    `randomise_episode_phase` works: an env that it cuts is reset in the raw env, whose own count
    starts over. The simulator's state cannot be saved: a training run that is resumed starts new
    episodes.
    """

    library = "Gymnasium"
    takes_reset_options = True

    def __init__(
        self,
        raw: GymVectorEnv,
        *,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        check_bounds: bool = True,
    ) -> None:
        """Take over `raw`, which must not be used directly from now on.

        Args:
            raw: with `AutoresetMode.DISABLED` or `SAME_STEP`, and with masked resets
                (`options={"reset_mask": mask}`), as all of Gymnasium's own have; or a
                `SyncVectorEnv`, whose mode is changed.
            max_steps, seed, device, check_bounds: see `ExternalEnv`. The bounds of LunarLander,
                which leaves them, are never checked.

        Raises:
            UsageError: the autoreset mode, the observations or the actions are not supported.
        """
        self._resets_itself = _check_autoreset(raw)
        self._keeps_last = self._resets_itself and keep_last(raw.unwrapped)
        keep_fractions(raw.unwrapped)
        if isinstance(raw.unwrapped, MultiAgentVectorEnv):
            raise UsageError(
                f"this {type(raw).__name__} wraps one of our envs already; give that env (its .env)"
            )
        check_bounds = check_bounds and not any(map(is_too_narrow, _specs(raw)))
        if isinstance(raw.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            keep_options(raw.unwrapped)
        super().__init__(
            raw,
            raw.single_observation_space,
            raw.single_action_space,
            _bounds(raw) if check_bounds else None,
            limits=(time_limit(raw),),
            max_steps=max_steps,
            seed=seed,
            device=device,
        )
        self.metadata = raw.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.spec = raw.spec
        self.articulated = any(
            "envs.mujoco" in str(spec.entry_point) for spec in _specs(raw) if spec is not None
        )
        self._reset_by_raw = np.zeros(self.num_envs, dtype=bool)

    @classmethod
    def from_raw(
        cls,
        raw: GymEnv | GymVectorEnv,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt a single env, of which a function makes others, or a `VectorEnv`.

        One that is batched itself, or gives tensors, becomes a `BatchedEnv`; one of several agents
        a `GymnasiumAgentsEnv`.
        """
        if isinstance(raw, VectorEnv) and not isinstance(raw.unwrapped, MultiAgentVectorEnv):
            if gives_tensors(raw):
                _check_autoreset(raw)
                return BatchedEnv.from_raw(raw, num_envs=num_envs, **options)
        elif not isinstance(raw, VectorEnv) and is_batched(raw):
            return BatchedEnv.from_raw(raw, num_envs=num_envs, **options)
        if isinstance(raw, VectorEnv):
            if is_of_agents(raw.single_observation_space, raw.single_action_space):
                raise UsageError(
                    f"this {type(raw.unwrapped).__name__} is of envs of several agents (tuples of "
                    "spaces), but Gymnasium's vector envs have one reward per env; give a function "
                    "that makes one: as_multi_agent(lambda: gymnasium.make(...), num_envs=8)"
                )
            check_count(raw.num_envs if num_envs is None else num_envs, raw.num_envs)
            return super().from_raw(raw, **options)
        if not isinstance(raw.unwrapped, gymnasium.Env):
            raise UsageError(
                f"this {type(raw).__name__} is around a {type(raw.unwrapped).__module__}."
                f"{type(raw.unwrapped).__name__}, which is no gymnasium.Env; give that env itself, "
                "without Gymnasium's wrappers: as_multi_agent(env.unwrapped)"
            )
        if is_of_agents(raw.observation_space, raw.action_space):
            return GymnasiumAgentsEnv.from_raw(
                raw, num_envs=num_envs, make_another=make_another, **options
            )
        raws = sub_envs_of(raw, num_envs, make_another, "gymnasium.Env")
        check_distinct(raws)
        return super().from_raw(vectorise(raws), **options)

    def _pictures(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], ...]:
        frames: Any = self.raw.render()
        return tuple(frames[index] for index in indices)

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed = self._seed_of_reset(seed)
        seeds: Any = seed
        if seed is not None and isinstance(self.raw.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            seeds = env_seeds(seed, self.num_envs)  # others take only one number
        self._checks.step = 0
        with self._checks.calling("reset()", self.raw):
            obs, _ = self.raw.reset(seed=seeds, options=self._reset_options or None)
        self._obs = self._flatten(obs)
        return self._shared(self._obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        chosen = mask.cpu().numpy() & ~self._reset_by_raw
        if chosen.any():
            with self._checks.calling("reset()", self.raw):
                obs, _ = self.raw.reset(options=self._reset_options | {"reset_mask": chosen})
            before, self._obs = self._obs, self._flatten(obs)
            going_on = torch.from_numpy(~chosen)
            old, new = before[going_on], self._obs[going_on]
            if not torch.allclose(old, new, rtol=0, atol=0, equal_nan=True):
                raise UsageError(
                    f"{type(self.raw.unwrapped).__name__}.reset did not keep to "
                    'options={"reset_mask": mask}: envs that go on changed too; make single envs '
                    "and put them together by gymnasium.vector.SyncVectorEnv"
                )
        return self._shared(self._obs)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._checks.step += 1
        raw_action = self._raw_actions(action)
        with self._checks.calling("step()", self.raw):
            obs, reward, terminated, truncated, info = self.raw.step(raw_action)
        listed = isinstance(info, list)  # Gymnasium's DictInfoToList
        self._tell(of_list(info) if listed else of_batch(info, self.num_envs))
        before, self._obs = self._obs, self._flatten(obs)
        final = self._obs
        terminated = self._checks.flags("terminated", terminated)
        truncated = self._checks.flags("truncated", truncated)
        if self._resets_itself:
            self._reset_by_raw = np.logical_or(terminated, truncated)
            finals = [one.get("final_obs") for one in info] if listed else info.get("final_obs")
            final = self._final_obs(finals)
            if not self._keeps_last:
                self._checks.not_reused(final, self._obs, before, self._reset_by_raw)
        return self._stepped(final, reward, terminated, truncated)

    def _flatten(self, obs: Any) -> Tensor:
        """Return the raw env's batch of observations as a new `(env, 1, obs_dim)` float32."""
        if not isinstance(self.raw.single_observation_space, spaces.Box):
            one_by_one = iterate(self.raw.observation_space, obs)
            obs = [self._flatten_one(one, index) for index, one in enumerate(one_by_one)]
        return self._rows(obs)

    def _flatten_one(self, obs: Any, index: int) -> Any:
        with self._checks.calling("flattening the observation", index=index):
            return spaces.flatten(self.raw.single_observation_space, obs)

    def _final_obs(self, finals: Any) -> Tensor:
        """Return the observations before the raw env reset itself, `(env, 1, obs_dim)`."""
        final = self._obs.clone()
        for index in np.flatnonzero(self._reset_by_raw).tolist():
            last = None if finals is None else finals[index]
            one = None if last is None else self._flatten_one(last, index)
            final[index, 0] = self._last_row("final_obs", one, (self.obs_dim,), index)
        return final


def time_limit(raw: GymVectorEnv) -> int | None:
    """Return after how many steps every copy is truncated, if the specs of all of them say so."""
    limits = [None if spec is None else spec.max_episode_steps for spec in _specs(raw)]
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


def _specs(raw: GymVectorEnv) -> list[Any]:
    inner = raw.unwrapped
    return [env.spec for env in inner.envs] if isinstance(inner, SyncVectorEnv) else [raw.spec]


def _bounds(raw: GymVectorEnv) -> Bounds | None:
    """Return the bounds that all copies keep; they may differ from copy to copy."""
    single, batched = raw.single_observation_space, raw.observation_space
    if isinstance(single, spaces.Box) and isinstance(batched, spaces.Box):
        if batched.shape == (raw.num_envs, *single.shape):
            single = spaces.Box(batched.low.min(0), batched.high.max(0), dtype=single.dtype)
    return bounds_of(single)


def vectorise(raws: list[GymEnv]) -> GymVectorEnv:
    """Return a vector env of the given copies, which resets none of them by itself."""
    indexed = [IndexedEnv(raw, index) for index, raw in enumerate(raws)]
    functions = [functools.partial(_itself, raw) for raw in indexed]  # which can be pickled
    try:
        return SyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED)
    except RuntimeError as error:
        raise UsageError(f"the copies must have the same spaces: {error}") from error


def _itself(raw: GymEnv) -> GymEnv:
    return raw


def _check_autoreset(raw: GymVectorEnv) -> bool:
    """Return whether `raw` resets ended envs within the step; False if never.

    A bare `SyncVectorEnv` of the mode NEXT_STEP, Gymnasium's default, is put into DISABLED.
    """
    mode = raw.metadata.get("autoreset_mode")
    if isinstance(raw, SyncVectorEnv) and mode == AutoresetMode.NEXT_STEP:
        mode = raw.autoreset_mode = AutoresetMode.DISABLED
        raw.metadata = raw.metadata | {"autoreset_mode": mode}
    if mode not in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
        raise UsageError(
            f"this {type(raw.unwrapped).__name__} has the autoreset mode {mode}, so its steps "
            "after the end of an episode are no steps; make it with DISABLED or SAME_STEP: "
            'gymnasium.make_vec(id, num_envs=8, vectorization_mode="sync", vector_kwargs='
            '{"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED})'
        )
    return bool(mode == AutoresetMode.SAME_STEP)
