"""Stable-Baselines3's `VecEnv`s as multi-agent vector envs; `export.py` goes the other way."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import usable_device
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import ExternalEnv, check_count, external_actions
from diffsurrogate.wrappers.external.checks import ExternalChecks, await_answers, end_if_stuck
from diffsurrogate.wrappers.external.spaces import (
    action_box,
    agent_names,
    bounds_of,
    is_too_narrow,
    observation_box,
    valid_action_dims,
)
from diffsurrogate.wrappers.sb3.export import SB3VecEnv


class AdaptedVecEnv(ExternalEnv):
    """A Stable-Baselines3 `VecEnv` as a multi-agent vector env with the one agent "agent".

    Values are the `VecEnv`'s own, as float32, and what its wrappers (`VecNormalize`,
    `VecFrameStack`) make of them. Observations are flattened. Continuous actions keep their box;
    `Discrete(K)` actions become one-hot rows (`discrete_actions`), of which the `VecEnv` gets the
    largest entry. What is not finite, of another shape than declared or outside of the declared
    bounds of observations is refused.

    An episode's end is a truncation where `infos[i]["TimeLimit.truncated"]` is set, and else a
    termination; Stable-Baselines3 calls what is both at once a termination. A `VecEnv` resets its
    copies itself and none of them on demand, so there are no time limits but its own: `max_steps`
    is None, which makes `randomise_episode_phase` do nothing and `evaluate` need `steps`. Seeds are
    handed out by `VecEnv.seed`: seed, seed + 1, ... The simulator's state cannot be saved: a
    training run that is resumed starts new episodes.

    Example:
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from diffsurrogate import as_multi_agent
        >>> env = as_multi_agent(make_vec_env("Pendulum-v1", n_envs=4), seed=0)
        >>> env.reset()[0].shape
        torch.Size([4, 1, 3])
    """

    resets_itself = True
    library = "Stable-Baselines3"

    def __init__(
        self,
        raw: VecEnv,
        *,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        check_bounds: bool = True,
    ) -> None:
        """Take over `raw`, which must not be used directly from now on.

        Args:
            raw: with a `Box` of observations, and a `Box`, `Discrete` or `MultiDiscrete` of
                actions (see `GymnasiumEnv`).
            seed, device: see `ExternalEnv`.
            check_bounds: see there. Never checked are LunarLander's, which leaves them, and what
                `VecNormalize` normalised, whose space stays as it was.

        Raises:
            UsageError: the observations or actions are not supported, or `raw` is one of our envs
                made a `VecEnv`.
        """
        if isinstance(raw.unwrapped, SB3VecEnv):
            raise UsageError(
                "this VecEnv is one of our envs already, made for Stable-Baselines3; give that env "
                "itself (SB3VecEnv's .env), as its slots are agents and not envs"
            )
        observations, actions = raw.observation_space, raw.action_space
        if not isinstance(observations, spaces.Box):
            raise UsageError(
                f"observations of {observations} are not supported, only a Box is; flatten those "
                "of the single envs, such as by gymnasium.wrappers.FlattenObservation: "
                "make_vec_env(id, wrapper_class=FlattenObservation)"
            )
        agents = agent_names(actions)
        super().__init__(
            num_envs=raw.num_envs,
            agents=agents,
            observation_space=observation_box(observations, len(agents)),
            action_space=action_box(actions),
            device=usable_device(device),
            check_bounds=False,  # the `VecEnv`'s own are checked, before agents share them
        )
        self.discrete_actions = isinstance(actions, spaces.Discrete | spaces.MultiDiscrete)
        self.valid_action_dims = valid_action_dims(actions).to(self.device)
        self.raw = raw
        self.render_mode = raw.render_mode
        self.metadata = self.metadata | {
            "render_modes": ["rgb_array"] if self.render_mode == "rgb_array" else [],
            "render_fps": raw.metadata.get("render_fps", 30),
        }
        self._seed = seed
        self._obs_shape = observations.shape
        self._obs = torch.zeros(self.num_envs, 1, self.obs_dim)
        self._cut = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._checks = ExternalChecks(type(raw.unwrapped).__name__, self.num_envs)
        check_bounds = check_bounds and _keeps_its_space(raw)
        self._bounds = bounds_of(observations) if check_bounds else None

    @classmethod
    def from_raw(
        cls,
        raw: VecEnv,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        max_steps: int | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt any `VecEnv`, wrapped or not; `num_envs` and `max_steps` are its own."""
        check_count(raw.num_envs if num_envs is None else num_envs, raw.num_envs)
        if max_steps is not None:
            raise UsageError(
                f"max_steps is {max_steps}, but a VecEnv cannot be told to reset one of its envs; "
                "put the time limit into the single envs: make_vec_env(lambda: "
                f"gymnasium.make(id, max_episode_steps={max_steps}), n_envs={raw.num_envs})"
            )
        return super().from_raw(raw, **options)

    def render(self, env_indices: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Draw the envs as they stand.

        Args:
            env_indices: which envs; None for all.

        Returns:
            one frame `(height, width, 3)` uint8 per env.

        Raises:
            UsageError: the single envs were made without `render_mode="rgb_array"`.
        """
        if self.render_mode != "rgb_array":
            raise UsageError(
                f"this VecEnv was made with render_mode={self.render_mode!r}; make it with "
                'make_vec_env(id, env_kwargs={"render_mode": "rgb_array"}) to get pictures'
            )
        frames: Any = self.raw.get_images()
        indices = range(self.num_envs) if env_indices is None else env_indices
        return tuple(frames[index] for index in indices)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the raw env; its processes are ended where one of them died."""
        end_if_stuck(self.raw.unwrapped)
        self.raw.close()

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed, self._seed = (self._seed if seed is None else seed), None
        if seed is not None:
            self.raw.seed(seed)
        self._checks.step = 0
        with self._checks.calling("reset()", self.raw):
            obs = self.raw.reset()
        self._obs = self._flatten(obs)
        return self._shared(self._obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        return self._shared(self._obs)  # all in `mask` ended in `raw`, which has reset them

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._checks.step += 1
        space: Any = self.raw.action_space
        raw_action = external_actions(space, action, self.num_envs)
        with self._checks.calling("step()", self.raw):
            self.raw.step_async(raw_action)
            await_answers(self.raw.unwrapped)
            obs, reward, done, infos = self.raw.step_wait()
        self._obs = self._flatten(obs)
        ended = self._checks.flags("done", done)
        cut = np.zeros_like(ended)
        final = self._obs.clone()
        for index in np.flatnonzero(ended).tolist():
            with self._checks.calling("reading its info", index=index):
                last = infos[index].get("terminal_observation")
                cut[index] = bool(infos[index].get("TimeLimit.truncated", False))
            if last is None:
                raise self._checks.missing('info["terminal_observation"]', index)
            row = self._checks.one(
                "terminal_observation", last, self._obs_shape, index, self._bounds
            )
            final[index, 0] = torch.from_numpy(row.reshape(-1))
        self._cut = torch.from_numpy(cut).to(self.device)
        rewards = torch.from_numpy(self._checks.batch("reward", reward, ()))
        return (
            self._shared(final),
            self._shared(rewards.unsqueeze(1) / self.num_agents),
            torch.from_numpy(ended & ~cut).to(self.device),
        )

    def _cut_short(self) -> Tensor:
        return self._cut

    # --- between tensors and the raw env --------------------------------------------------------

    def _flatten(self, obs: Any) -> Tensor:
        """Return the raw env's batch of observations as a new `(env, 1, obs_dim)` float32."""
        rows = self._checks.batch("observation", obs, self._obs_shape, self._bounds)
        return torch.from_numpy(rows.reshape(self.num_envs, 1, -1))


def _keeps_its_space(raw: VecEnv) -> bool:
    """Return whether nothing is known that takes observations out of the declared space."""
    normalised = unwrap_vec_normalize(raw)
    if normalised is not None and normalised.norm_obs:
        return False
    specs = raw.get_attr("spec") if raw.has_attr("spec") else []
    return not any(map(is_too_narrow, specs))
