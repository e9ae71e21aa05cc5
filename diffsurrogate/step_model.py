"""One-step residual dynamics and the probability that a step ends the episode."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.configuration import require_range
from diffsurrogate.nets import NetConfig, build_net
from diffsurrogate.normalise import RunningStatistics


@dataclass(frozen=True, kw_only=True)
class StepModelConfig:
    r"""A one-step model $f(s, a) = s + \sigma_\Delta g(norm(s), a)$."""

    net: NetConfig = field(
        default_factory=lambda: NetConfig(
            architecture="joint", hidden=(128, 128), activation="silu"
        )
    )
    obs_floor: float = 0.02
    """Smallest standard deviation an observation entry is normalised by."""
    change_floor: float = 0.003
    """Smallest standard deviation a change of an entry is predicted in."""

    def __post_init__(self) -> None:
        require_range(self, "obs_floor", "change_floor", low=1e-12)


class StepModel(nn.Module):
    """Predicts the next observation; a new model means "nothing moves"."""

    def __init__(self, config: StepModelConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the last layer is zero."""
        super().__init__()
        self.config = config
        self.net = build_net(config.net, agents, obs_dim + act_dim, obs_dim, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=config.obs_floor)
        self.change_statistics = RunningStatistics((obs_dim,), floor=config.change_floor)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the predicted next observation `(*batch, agent, obs_dim)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), in half boxes.
        """
        return obs + self.change_statistics.std * self._net(obs, action)

    def loss(self, obs: Tensor, action: Tensor, next_obs: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error in units of the changes' standard deviation.

        `mask` (agent, obs_dim) is 1 where an entry counts: entries that only take discrete values
        are no dynamics a gradient could use.
        """
        change = (next_obs - obs) / self.change_statistics.std
        error = (self._net(obs, action) - change).square() * mask
        return error.sum() / (mask.sum().clamp(min=1) * error[..., 0, 0].numel())

    def _net(self, obs: Tensor, action: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([self.obs_statistics(obs), action], dim=-1))
        return out


class TerminationModel(nn.Module):
    """Logit that a step from s with a ends the episode by state: `(*batch,)`."""

    def __init__(self, net: NetConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the logit is the mean over agents of one output each."""
        super().__init__()
        self.net = build_net(net, agents, obs_dim + act_dim, 1, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=0.02)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the logit for obs `(*batch, agent, obs_dim)` and action in half boxes."""
        inputs = torch.cat([self.obs_statistics(obs), action], dim=-1)
        out: Tensor = self.net(inputs).squeeze(-1).mean(-1)
        return out
