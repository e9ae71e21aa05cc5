"""Models that a user gives instead of having them learned."""

import inspect
import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.dynamics import DynamicsModel

_WRONG, _WINDOWS = 0.5, 3
"""Fraction of variance unexplained, and windows in a row beyond it after which the user is told."""


class GivenReward(nn.Module):
    """A ready-made module of (obs, action, next_obs), which is not trained."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap the module; its actions are in the env's units.

        Raises:
            UsageError: it takes something else.
        """
        super().__init__()
        self.module = _taking(module, "reward", ("obs", "action", "next_obs"))

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return rewards `(*batch, agent)`.

        Raises:
            UsageError: the module returned another shape.
        """
        return _in_shape(self.module(obs, action, next_obs), obs.shape[:-1], "reward", "agent")


class GivenDynamics(DynamicsModel):
    """A ready-made module of (obs, action), which is not trained."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap the module; its actions are in the env's units.

        Raises:
            UsageError: it takes something else.
        """
        super().__init__()
        self.module = _taking(module, "dynamics", ("obs", "action"))

    def begin(self, obs: Tensor) -> None:
        """Return no carry."""

    def step(self, carry: None, obs: Tensor, action: Tensor) -> tuple[Tensor, None]:
        """Return the module's next observation."""
        return self._next_obs(obs, action), None

    def restart(self, carry: None, mask: Tensor, obs: Tensor) -> None:
        """Return no carry."""

    def predict(self, window: Window, action: Tensor) -> Tensor:
        """Return the module's next observations."""
        return self._next_obs(window.obs, action)

    def _next_obs(self, obs: Tensor, action: Tensor) -> Tensor:
        after = self.module(obs, action)
        return _in_shape(after, obs.shape, "dynamics", "agent, obs_dim")


def as_dynamics(module: nn.Module) -> DynamicsModel:
    """Return a dynamics model unchanged, and any other module of (obs, action) wrapped."""
    return module if isinstance(module, DynamicsModel) else GivenDynamics(module)


class GivenModelErrors:
    """Tells the user that the env contradicts a given model."""

    def __init__(self, name: str) -> None:
        """Watch the model of this name, reward or dynamics."""
        self.name = name
        self.windows = 0  # in a row that contradict it

    def update(self, report: dict[str, float]) -> None:
        """Look at the errors on a new window.

        Warns:
            RuntimeWarning: once, the model left most of the variance of some windows unexplained.
        """
        if self.windows == _WINDOWS:
            return  # was told
        error = report.get(f"{self.name}_error", 0.0)
        self.windows = self.windows + 1 if error > _WRONG else 0
        if self.windows == _WINDOWS:
            warnings.warn(
                f"the {self.name} module given contradicts the env: it left {error:.2g} of the "
                f"variance unexplained ({self.name}_error; 0 is perfect, 1 no better than the "
                "mean); check its formula, units and signs, or let the model be learned "
                f"({self.name}=True)",
                RuntimeWarning,
                stacklevel=2,
            )


def _taking(module: nn.Module, name: str, parts: Sequence[str]) -> nn.Module:
    try:
        signature = inspect.signature(module.forward)
    except ValueError:  # TorchScript has none
        return module
    try:
        signature.bind(*parts)
    except TypeError as error:
        raise UsageError(
            f"the {name} module given takes {signature}; it is called with ({', '.join(parts)})"
        ) from error
    return module


def _in_shape(found: Tensor, needed: Sequence[int], name: str, last: str) -> Tensor:
    if found.shape != needed:
        raise UsageError(
            f"the {name} module given returned the shape {tuple(found.shape)}; (*batch, {last}) = "
            f"{tuple(needed)} is needed"
        )
    return found
