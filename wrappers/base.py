"""What wrappers of our envs leave to the env they wrap."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State


class EnvWrapper(MultiAgentVectorEnv):
    """One of our envs around another, `env`, whose world, clock and pictures it keeps."""

    env: MultiAgentVectorEnv
    """The wrapped env."""

    def __init__(self, **described: Any) -> None:
        """Describe the env, as `MultiAgentVectorEnv`; `env` must be set already."""
        super().__init__(**described)
        self.gradient_guard = self.env.gradient_guard  # one count, and one switch

    def __repr__(self) -> str:
        """Return what it wraps."""
        return f"{type(self).__name__}({self.env!r})"

    def _keep_roles(self) -> None:
        """Copy the wrapped env's masks, kind of actions and observation slices."""
        env = self.env
        self.observation_mask, self.valid_action_dims = env.observation_mask, env.valid_action_dims
        self.discrete_actions, self.action_mask_slice = env.discrete_actions, env.action_mask_slice
        self.global_state_slice, self.offers_state = env.global_state_slice, env.offers_state
        self.resets_itself, self.articulated = env.resets_itself, env.articulated

    @property
    def native_gradients(self) -> frozenset[str]:
        """What the wrapped env could differentiate itself."""
        return self.env.native_gradients

    @property
    def episode_start(self) -> Tensor:
        """(env,) bool: the wrapped env's observation is the first of its episode."""
        return self.env.episode_start

    @property
    def alive_mask(self) -> Tensor | None:
        """(env, agent) bool: agents that are alive in the wrapped env; None where all are."""
        return self.env.alive_mask

    @contextmanager
    def restarting_broken(self) -> Iterator[None]:
        """Let the wrapped env reset envs that break, instead of raising."""
        with self.env.restarting_broken():
            yield

    def episode_report(self) -> dict[str, float]:
        """Return what the wrapped env reported of ended episodes."""
        return self.env.episode_report()

    @property
    def reported_episodes(self) -> dict[str, int]:
        """Over how many episodes the wrapped env's last means are."""
        return self.env.reported_episodes

    def max_return(self) -> Tensor | None:
        """Return the wrapped env's largest attainable return, (env,)."""
        return self.env.max_return()

    def contacts(self) -> Tensor | None:
        """(env,) bool: envs of the wrapped env that are in contact; None if it does not know."""
        return self.env.contacts()

    def state(self) -> State:
        """Return the wrapped env's state; what was learned is in `state_dict`."""
        return self.env.state()

    def set_state(self, state: State) -> None:
        """Restore the wrapped env's state."""
        self.env.set_state(state)

    def randomise_episode_phase(self, generator: torch.Generator, every: int = 1) -> None:
        """Start episodes at random phases, so that resets do not coincide."""
        self.env.randomise_episode_phase(generator, every)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render the wrapped env."""
        return self.env.render(*args, **kwargs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the wrapped env."""
        self.env.close(**kwargs)


class GradientWrapper(EnvWrapper):
    """An `EnvWrapper` through which the wrapped env's own gradients pass."""

    def detach(self) -> None:
        """Cut the env's graph."""
        self.env.detach()

    def enable_gradients(self, *kinds: str) -> None:
        """Turn on the env's own gradients."""
        self.env.enable_gradients(*kinds)
        self.gradients = self.env.gradients

    def disable_gradients(self) -> None:
        """Turn the env's own gradients off."""
        self.env.disable_gradients()
        self.gradients = self.env.gradients
