"""Gymnasium's single-agent envs as multi-agent vector envs; `ids.py` makes them by id."""

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
from diffsurrogate.envs.registry import usable_device
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import (
    ExternalEnv,
    check_count,
    check_distinct,
    check_render_mode,
    env_seeds,
    external_actions,
    not_drawn,
    sub_envs_of,
)
from diffsurrogate.wrappers.external.checks import ExternalChecks, IndexedEnv, end_if_stuck
from diffsurrogate.wrappers.external.spaces import (
    action_box,
    agent_names,
    bounds_of,
    is_too_narrow,
    observation_box,
    valid_action_dims,
)

GymVectorEnv = VectorEnv[Any, Any, Any]
GymEnv = gymnasium.Env[Any, Any]


class GymnasiumEnv(ExternalEnv):
    """A `gymnasium.vector.VectorEnv` as a multi-agent vector env with the one agent "agent".

    Values are the raw env's own, as float32. Observations other than boxes are flattened as
    `gymnasium.spaces.flatten` does. Continuous actions keep their box; `Discrete(K)` actions become
    one-hot rows (`discrete_actions`), of which the raw env gets the largest entry.

    `MultiDiscrete` actions are several choices: each is made by its own agent ("choice_0",
    "choice_1", ...), which sees all and earns an equal share of the reward, so that returns, which
    are sums over agents, are the raw env's.

    What is not finite, of another shape than declared or outside of the declared bounds of
    observations is refused.

    Terminations and truncations are the raw env's. `max_steps` is counted here as well, so that
    `randomise_episode_phase` works: an env that it cuts is reset in the raw env, whose own count
    starts over. The simulator's state cannot be saved: a training run that is resumed starts new
    episodes.
    """

    library = "Gymnasium"

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
        if isinstance(raw.unwrapped, MultiAgentVectorEnv):
            raise UsageError(
                f"this {type(raw).__name__} wraps one of our envs already; give that env (its .env)"
            )
        actions = raw.single_action_space
        agents = agent_names(actions)
        limits = [limit for limit in (time_limit(raw), max_steps) if limit is not None]
        super().__init__(
            num_envs=raw.num_envs,
            agents=agents,
            observation_space=observation_box(raw.single_observation_space, len(agents)),
            action_space=action_box(actions),
            device=usable_device(device),
            max_steps=min(limits, default=None),
            check_bounds=False,  # `raw`'s own are checked, before agents share them
        )
        self.discrete_actions = isinstance(actions, spaces.Discrete | spaces.MultiDiscrete)
        self.valid_action_dims = valid_action_dims(actions).to(self.device)
        self.raw = raw
        self.metadata = raw.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode, self.spec = raw.render_mode, raw.spec
        self._seed = seed
        self._cut = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._reset_by_raw = np.zeros(self.num_envs, dtype=bool)
        self._raw_obs = torch.zeros(self.num_envs, 1, self.obs_dim)
        self._checks = ExternalChecks(type(raw.unwrapped).__name__, self.num_envs)
        check_bounds = check_bounds and not any(map(is_too_narrow, _specs(raw)))
        self._bounds = _bounds(raw) if check_bounds else None

    @classmethod
    def from_raw(
        cls,
        raw: GymEnv | GymVectorEnv,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt a single env, of which a function makes others, or a `VectorEnv`."""
        if isinstance(raw, VectorEnv):
            check_count(raw.num_envs if num_envs is None else num_envs, raw.num_envs)
            return super().from_raw(raw, **options)
        raws = sub_envs_of(raw, num_envs, make_another, "gymnasium.Env")
        check_distinct(raws)
        return super().from_raw(vectorise(raws), **options)

    def render(self, env_indices: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Draw the envs as they stand.

        Args:
            env_indices: which envs; None for all.

        Returns:
            one frame `(height, width, 3)` uint8 per env.

        Raises:
            UsageError: the env was made without `render_mode="rgb_array"`, or a package or the
                OpenGL that it draws with is missing.
        """
        check_render_mode(self.render_mode)
        try:
            frames: Any = self.raw.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UsageError(f"drawing this env needs a package: {error}") from error
        except Exception as error:  # such as MuJoCo's own
            raise not_drawn(error) from error
        indices = range(self.num_envs) if env_indices is None else env_indices
        return tuple(frames[index] for index in indices)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the raw env; its processes are ended where one of them died."""
        end_if_stuck(self.raw.unwrapped)
        self.raw.close(**kwargs)

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds: Any = seed
        if seed is not None and isinstance(self.raw.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            seeds = env_seeds(seed, self.num_envs)  # others take only one number
        self._checks.step = 0
        with self._checks.calling("reset()", self.raw):
            obs, _ = self.raw.reset(seed=seeds)
        self._raw_obs = self._flatten(obs)
        return self._shared(self._raw_obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        chosen = mask.cpu().numpy() & ~self._reset_by_raw
        if chosen.any():
            with self._checks.calling("reset()", self.raw):
                obs, _ = self.raw.reset(options={"reset_mask": chosen})
            before, self._raw_obs = self._raw_obs, self._flatten(obs)
            going_on = torch.from_numpy(~chosen)
            old, new = before[going_on], self._raw_obs[going_on]
            if not torch.allclose(old, new, rtol=0, atol=0, equal_nan=True):
                raise UsageError(
                    f"{type(self.raw.unwrapped).__name__}.reset did not keep to "
                    'options={"reset_mask": mask}: envs that go on changed too; make single envs '
                    "and put them together by gymnasium.vector.SyncVectorEnv"
                )
        return self._shared(self._raw_obs)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._checks.step += 1
        space: Any = self.raw.single_action_space
        raw_action = external_actions(space, action, self.num_envs)
        with self._checks.calling("step()", self.raw):
            obs, reward, terminated, truncated, info = self.raw.step(raw_action)
        self._raw_obs = final = self._flatten(obs)
        terminated = self._checks.flags("terminated", terminated)
        truncated = self._checks.flags("truncated", truncated)
        if self._resets_itself:
            self._reset_by_raw = np.logical_or(terminated, truncated)
            final = self._final_obs(info)
        self._cut = torch.from_numpy(truncated).to(self.device)
        rewards = torch.from_numpy(self._checks.batch("reward", reward, ()))
        return (
            self._shared(final),
            self._shared(rewards.unsqueeze(1) / self.num_agents),
            torch.from_numpy(terminated).to(self.device),
        )

    def _cut_short(self) -> Tensor:
        return self._cut

    # --- between tensors and the raw env --------------------------------------------------------

    def _flatten(self, obs: Any) -> Tensor:
        """Return the raw env's batch of observations as a new `(env, 1, obs_dim)` float32."""
        space = self.raw.single_observation_space
        shape = space.shape if isinstance(space, spaces.Box) else (self.obs_dim,)
        if not isinstance(space, spaces.Box):
            one_by_one = iterate(self.raw.observation_space, obs)
            obs = [self._flatten_one(one, index) for index, one in enumerate(one_by_one)]
        rows = self._checks.batch("observation", obs, shape, self._bounds)
        return torch.from_numpy(rows.reshape(self.num_envs, 1, -1))

    def _flatten_one(self, obs: Any, index: int) -> Any:
        with self._checks.calling("flattening the observation", index=index):
            return spaces.flatten(self.raw.single_observation_space, obs)

    def _final_obs(self, info: dict[str, Any]) -> Tensor:
        """Return the observations before the raw env reset itself, `(env, 1, obs_dim)`."""
        final = self._raw_obs.clone()
        finals = info.get("final_obs", [None] * self.num_envs)
        for index in np.flatnonzero(self._reset_by_raw).tolist():
            if finals[index] is None:
                raise self._checks.missing('info["final_obs"]', index)
            one = self._flatten_one(finals[index], index)
            row = self._checks.one("final_obs", one, (self.obs_dim,), index, self._bounds)
            final[index, 0] = torch.from_numpy(row)
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
    functions = [lambda raw=raw: raw for raw in indexed]
    try:
        return SyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED)
    except RuntimeError as error:
        raise UsageError(f"the copies must have the same spaces: {error}") from error


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
