"""What every model of the dynamics can do, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from diffsurrogate.envs.window import Window

Batch = dict[str, Tensor]


class DynamicsModel(nn.Module, ABC):
    """Predicts observations from actions, step by step or a window at a time.

    A carry is what a model keeps from step to step besides the state; None if it keeps nothing.
    """

    from_start: ClassVar[bool] = False
    """Whether predictions depend on where a trajectory began and all actions since, instead of on
    the step before."""
    max_horizon: int | None = None
    """Longest trajectory that can be predicted; None for any."""

    @abstractmethod
    def begin(self, obs: Tensor) -> Any:
        """Return the carry of trajectories that begin at `obs` (env, agent, obs_dim)."""

    @abstractmethod
    def step(self, carry: Any, obs: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        """Return the next observation (env, agent, obs_dim) and the carry.

        Args:
            carry: of the step before.
            obs: (env, agent, obs_dim).
            action: (env, agent, act_dim).
        """

    @abstractmethod
    def restart(self, carry: Any, mask: Tensor, obs: Tensor) -> Any:
        """Return the carry with new trajectories at `obs` where `mask` (env,) is set."""

    @abstractmethod
    def predict(self, window: Window, action: Tensor) -> Tensor:
        """Return the next observations (time, env, agent, obs_dim) of a window.

        Args:
            window: whose observations, or first ones of each trajectory, predictions start from.
            action: (time, env, agent, act_dim), as the model takes actions.
        """


class LearnedDynamics(DynamicsModel):
    """A model of ours, which learns from a replay of windows; actions are normalised."""

    @abstractmethod
    def items(self, window: Window, action: Tensor) -> Batch:
        """Return what the replay keeps of a window, by item; `key` is what its bins are of."""

    @abstractmethod
    def items_for(self, transitions: int) -> int:
        """Return how many items hold that many transitions."""

    @abstractmethod
    def batch_size(self, transitions: int) -> int:
        """Return the items of a minibatch, where models of steps take that many transitions."""

    @abstractmethod
    def loss(self, batch: Batch, continuous: Tensor) -> Tensor:
        """Return the mean squared error on a minibatch, in units of the changes' deviation.

        Args:
            batch: items of the replay.
            continuous: (agent, obs_dim) bool, the features that count.
        """

    def response(self, batch: Batch, continuous: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return what maps actions (n × batch) to scaled predictions; None if nothing does.

        Discrete actions hold it to be linear between two of them (`mixup_loss`).
        """
        return None

    @abstractmethod
    def update_normaliser(
        self, obs: Tensor, next_obs: Tensor, draw: Callable[[int], Batch]
    ) -> None:
        """Measure the data.

        Args:
            obs: (step, agent, obs_dim) of the latest window.
            next_obs: (step, agent, obs_dim).
            draw: returns that many items of the replay.
        """

    def evaluate(self, window: Window, action: Tensor) -> None:
        """Learn from a window not trained on how far predictions can be trusted."""


def repeat_to(rows: Tensor, action: Tensor) -> Tensor:
    """Repeat rows until there are as many as of the actions, which mixup stacks."""
    return rows.repeat(len(action) // len(rows), *[1] * (rows.dim() - 1))


class GivenDynamics(DynamicsModel):
    """A ready module of (obs, action), whose weights stay as they are."""

    def __init__(self, module: nn.Module) -> None:
        """Take the module; its actions are those of the env."""
        super().__init__()
        self.module = module

    def begin(self, obs: Tensor) -> None:
        """Return nothing."""

    def step(self, carry: None, obs: Tensor, action: Tensor) -> tuple[Tensor, None]:
        """Return the module's next observation."""
        return self.module(obs, action), None

    def restart(self, carry: None, mask: Tensor, obs: Tensor) -> None:
        """Return nothing."""

    def predict(self, window: Window, action: Tensor) -> Tensor:
        """Return the module's next observations."""
        out: Tensor = self.module(window.obs, action)
        return out


OBS_FLOOR = 0.02
"""Smallest standard deviation an observation feature is normalised by."""
CHANGE_FLOOR = 0.003
"""Smallest standard deviation a change of a feature is measured in."""
