"""Which features of an observation are continuous, and how well each is predicted."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.errors import UsageError


class ContinuousFeatures(nn.Module):
    """Finds the observation entries that a gradient may pass through.

    Flags and one-hots are no function a model could differentiate; chained over a window, their
    spurious slopes explode. An entry counts as discrete while every value seen of it is a whole
    number, and as continuous for ever once one was not.
    """

    seen: Tensor
    fixed: Tensor

    def __init__(self, agents: int, obs_dim: int, continuous: Tensor | None = None) -> None:
        """Start with nothing known.

        Args:
            agents: number of agents.
            obs_dim: features of one agent.
            continuous: (agent, obs_dim) or (obs_dim,) bool, to say it instead of finding out.
        """
        super().__init__()
        self.register_buffer("seen", torch.zeros(agents, obs_dim, dtype=torch.bool))
        self.register_buffer("fixed", torch.tensor(continuous is not None))
        if continuous is not None:
            given = torch.as_tensor(continuous).cpu()
            if given.dtype != torch.bool or given.shape not in (self.seen.shape, (obs_dim,)):
                raise UsageError(
                    f"continuous is {given.dtype} of shape {tuple(given.shape)}; a bool tensor of "
                    f"(agent, obs_dim) = {tuple(self.seen.shape)} or (obs_dim,) is needed"
                )
            self.seen |= given

    @property
    def mask(self) -> Tensor:
        """(agent, obs_dim) bool: True where an entry is continuous."""
        return self.seen

    @torch.no_grad()
    def update(self, obs: Tensor) -> None:
        """Look at observations `(*any, agent, obs_dim)`."""
        if bool(self.fixed) or bool(self.seen.all()):
            return
        rows = obs.reshape(-1, *self.seen.shape)
        self.seen |= (rows != rows.round()).any(0)


OBS_FLOOR = 0.02
"""Smallest standard deviation an observation feature is normalised by."""
CHANGE_FLOOR = 0.003
"""Smallest standard deviation a change of a feature is measured in."""
DECAY = 0.9
"""Of the running means, per window."""


class GradientAttenuation(nn.Module):
    """Running shares of each entry's change, and of its next value, that a model explains.

    In windows not seen before. Until the first one everything counts as explained; what does not
    change is not.
    """

    error: Tensor
    change: Tensor
    spread: Tensor
    windows: Tensor

    def __init__(self, agents: int, obs_dim: int) -> None:
        """Start with nothing known about `obs_dim` entries of each agent."""
        super().__init__()
        for name in ("error", "change", "spread"):
            self.register_buffer(name, torch.zeros(agents, obs_dim))
        self.register_buffer("windows", torch.tensor(0))

    @torch.no_grad()
    def update(
        self,
        predicted: Float[Tensor, "step agent obs_dim"],
        obs: Float[Tensor, "step agent obs_dim"],
        next_obs: Float[Tensor, "step agent obs_dim"],
    ) -> None:
        """Take in steps of a new window, and what was predicted of them."""
        self.windows += 1
        share = (1 - DECAY) / (1 - DECAY ** float(self.windows))  # running means without a bias
        for mean, difference in (
            (self.error, predicted - next_obs),
            (self.change, next_obs - obs),
            (self.spread, next_obs - next_obs.mean(0)),
        ):
            mean.lerp_(difference.square().mean(0), share)

    @property
    def of_change(self) -> Float[Tensor, "agent obs_dim"]:
        """Share of each entry's mean squared change that is explained, in [0, 1]."""
        return self._share(self.change)

    @property
    def of_value(self) -> Float[Tensor, "agent obs_dim"]:
        """Share of the variance of each entry's next value that is explained, in [0, 1]."""
        return self._share(self.spread)

    def attenuated(
        self,
        obs: Float[Tensor, "*b agent obs_dim"],
        change: Float[Tensor, "*b agent obs_dim"],
    ) -> Float[Tensor, "*b agent obs_dim"]:
        """Return `obs + change`, each with the square of what is explained of its gradient."""
        parts = ((obs, self.of_value), (change, self.of_change))
        stays, moves = (x.detach() + s.square() * (x - x.detach()) for x, s in parts)
        return stays + moves

    def _share(self, of: Tensor) -> Tensor:
        share = (1 - self.error / of).clamp(min=0)
        known = torch.where(of > 1e-12, share, 0.0)
        return torch.where(self.windows > 0, known, 1.0)
