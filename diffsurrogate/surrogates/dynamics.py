"""The interface of dynamics models, and a wrapper for ready-made modules."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from diffsurrogate.envs.window import Window

Batch = dict[str, Tensor]


class DynamicsModel(nn.Module, ABC):
    """Predicts observations from actions, step by step or a window at a time.

    A carry is a model's internal state between steps; None if it has none.
    """

    from_start: ClassVar[bool] = False
    """Whether predictions depend on the initial state of a trajectory and all actions since, rather
    than on the previous step."""
    max_horizon: int | None = None
    """Longest trajectory that can be predicted, in steps; None for any."""
    usual_change: Tensor | float = 0.0
    """(agent, obs_dim), the size of a feature's change in a step; 0 where it is not known."""

    @abstractmethod
    def begin(self, obs: Tensor) -> Any:
        """Return the initial carry of trajectories from `obs` (env, agent, obs_dim)."""

    @abstractmethod
    def step(self, carry: Any, obs: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        """Return the next observation (env, agent, obs_dim) and the next carry.

        Args:
            carry: of the previous step.
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
            window: predictions start from its observations, or from the first one of each
                trajectory.
            action: (time, env, agent, act_dim), in the model's units.
        """


class LearnedDynamics(DynamicsModel):
    """A model trained from a replay buffer; its actions are normalised."""

    @abstractmethod
    def items(self, window: Window, action: Tensor) -> Batch:
        """Return a window's items for the replay buffer; `key` determines their bins."""

    @abstractmethod
    def items_for(self, transitions: int) -> int:
        """Return how many items hold that many transitions."""

    @abstractmethod
    def batch_size(self, transitions: int) -> int:
        """Return the number of items per minibatch, given the number of transitions."""

    @abstractmethod
    def loss(self, batch: Batch, continuous: Tensor) -> Tensor:
        """Return the mean squared error on a minibatch, in units of the changes' scale.

        Args:
            batch: items of the replay buffer.
            continuous: (agent, obs_dim) bool, the features to predict.
        """

    def response(self, batch: Batch, continuous: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return a function from actions (n × batch) to scaled predictions, for `mixup_loss`.

        None if the model has none.
        """
        return None

    @abstractmethod
    def update_normaliser(
        self,
        obs: Tensor,
        next_obs: Tensor,
        draw: Callable[[int], Batch],
        alive: Tensor | None = None,
    ) -> None:
        """Update the normalisation statistics.

        Args:
            obs: (step, agent, obs_dim) of the latest window.
            next_obs: (step, agent, obs_dim).
            draw: samples that many items of the replay buffer.
            alive: (step, agent) bool, the agents that were alive; None for all.
        """

    def evaluate(self, window: Window, predicted: Tensor) -> None:
        """Update estimates of the model's accuracy from a window not trained on.

        Args:
            window: the window.
            predicted: what `predict` said of it.
        """


def repeat_to(rows: Tensor, action: Tensor) -> Tensor:
    """Repeat a batch to the number of actions, which `mixup_loss` stacks."""
    return rows.repeat(len(action) // len(rows), *[1] * (rows.dim() - 1))
