"""What wrappers of our envs leave to the env they wrap."""

from typing import Any

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State


class EnvWrapper(MultiAgentVectorEnv):
    """One of our envs around another, `env`, whose world, clock and pictures it keeps."""

    env: MultiAgentVectorEnv
    """The wrapped env."""

    def _keep_roles(self) -> None:
        """Take over what is padding, what is a choice, and what the columns of obs are for."""
        env = self.env
        self.observation_mask, self.action_mask = env.observation_mask, env.action_mask
        self.discrete_actions, self.open_choices = env.discrete_actions, env.open_choices
        self.state_columns, self.offers_state = env.state_columns, env.offers_state
        self.resets_itself = env.resets_itself

    @property
    def own_gradients(self) -> frozenset[str]:
        """What the wrapped env could differentiate itself."""
        return self.env.own_gradients

    @property
    def began(self) -> Tensor:
        """(env,) bool: the wrapped env's observation is the first of its episode."""
        return self.env.began

    @property
    def present(self) -> Tensor | None:
        """(env, agent) bool: who is there to act in the wrapped env; None where all are."""
        return self.env.present

    def max_return(self) -> Tensor | None:
        """Return the wrapped env's largest attainable return, (env,)."""
        return self.env.max_return()

    def state(self) -> State:
        """Return the wrapped env's state; what was learned is in `state_dict`."""
        return self.env.state()

    def set_state(self, state: State) -> None:
        """Put the wrapped env back where `state` was taken."""
        self.env.set_state(state)

    def stagger(self, generator: torch.Generator, every: int = 1) -> None:
        """Spread the wrapped env's time limits."""
        self.env.stagger(generator, every)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render the wrapped env."""
        return self.env.render(*args, **kwargs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the wrapped env."""
        self.env.close(**kwargs)
