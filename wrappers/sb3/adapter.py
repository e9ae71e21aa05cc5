"""Stable-Baselines3's `VecEnv`s as multi-agent vector envs; `export.py` goes the other way."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecFrameStack,
    unwrap_vec_normalize,
    unwrap_vec_wrapper,
)
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_count
from diffsurrogate.wrappers.external.checks import await_answers, keep_last
from diffsurrogate.wrappers.external.infos import of_each
from diffsurrogate.wrappers.external.single_agent import SingleAgentEnv
from diffsurrogate.wrappers.external.spaces import bounds_of, is_too_narrow
from diffsurrogate.wrappers.sb3.export import SB3VecEnv


class AdaptedVecEnv(SingleAgentEnv):
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
    takes_reset_options = True
    library = "Stable-Baselines3"
    drawn_if = 'make it with make_vec_env(id, env_kwargs={"render_mode": "rgb_array"})'

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
            check_bounds: see there. Never checked are LunarLander's, which leaves them, what
                `VecNormalize` normalised, whose space stays as it was, and what `VecFrameStack`
                stacked, whose space has the bounds in another order than the entries.

        Raises:
            UsageError: the observations or actions are not supported, or `raw` is one of our envs
                made a `VecEnv`.
        """
        if isinstance(raw.unwrapped, SB3VecEnv):
            raise UsageError(
                "this VecEnv is one of our envs already, made for Stable-Baselines3; give that env "
                "itself (SB3VecEnv's .env), as its slots are agents and not envs"
            )
        self._keeps_last = keep_last(raw.unwrapped)
        observations = raw.observation_space
        if not isinstance(observations, spaces.Box):
            raise UsageError(
                f"observations of {observations} are not supported, only a Box is; flatten those "
                "of the single envs, such as by gymnasium.wrappers.FlattenObservation: "
                "make_vec_env(id, wrapper_class=FlattenObservation)"
            )
        check_bounds = check_bounds and _keeps_its_space(raw)
        super().__init__(
            raw,
            observations,
            raw.action_space,
            bounds_of(observations) if check_bounds else None,
            limits=(),
            max_steps=None,
            seed=seed,
            device=device,
        )
        self.metadata = self.metadata | {
            "render_modes": ["rgb_array"] if self.render_mode == "rgb_array" else [],
            "render_fps": raw.metadata.get("render_fps", 30),
        }

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

    def _pictures(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], ...]:
        frames: Any = self.raw.get_images()
        return tuple(frames[index] for index in indices)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the raw env, which takes no options for it."""
        super().close_extras()

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed = self._seed_of_reset(seed)
        if seed is not None:
            self.raw.seed(seed)
        if self._reset_options:
            self.raw.set_options(self._reset_options)
        self._checks.step = 0
        with self._checks.calling("reset()", self.raw):
            obs = self.raw.reset()
        self._obs = self._rows(obs)
        return self._shared(self._obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        return self._shared(self._obs)  # all in `mask` ended in `raw`, which has reset them

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._checks.step += 1
        raw_action = self._raw_actions(action)
        with self._checks.calling("step()", self.raw):
            self.raw.step_async(raw_action)
            await_answers(self.raw.unwrapped)
            obs, reward, done, infos = self.raw.step_wait()
        before, self._obs = self._obs, self._rows(obs)
        self._tell(of_each(infos))
        ended = self._checks.flags("done", done)
        cut = np.zeros_like(ended)
        final = self._obs.clone()
        for index in np.flatnonzero(ended).tolist():
            with self._checks.calling("reading its info", index=index):
                last = infos[index].get("terminal_observation")
                cut[index] = bool(infos[index].get("TimeLimit.truncated", False))
            final[index, 0] = self._last_row("terminal_observation", last, self._raw_shape, index)
        if not self._keeps_last:
            self._checks.not_reused(final, self._obs, before, ended)
        return self._stepped(final, reward, ended & ~cut, cut)


def _keeps_its_space(raw: VecEnv) -> bool:
    """Return whether nothing is known that takes observations out of the declared space."""
    normalised = unwrap_vec_normalize(raw)
    if normalised is not None and normalised.norm_obs:
        return False
    if unwrap_vec_wrapper(raw, VecFrameStack) is not None:
        return False
    specs = raw.get_attr("spec") if raw.has_attr("spec") else []
    return not any(map(is_too_narrow, specs))
