"""Policies: reparameterised Gaussians over the action box, and their windows of noise."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.configuration import require_range
from diffsurrogate.nets import NetConfig, build_net
from diffsurrogate.normalise import RunningStatistics


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    r"""A Gaussian policy $a = \mu(o) + \sigma \epsilon$, in units of half the action box."""

    net: NetConfig = field(default_factory=NetConfig)
    std: float = 1.0
    """Initial standard deviation, in half boxes."""
    learn_std: bool = False
    """Learn one log standard deviation per action feature, independent of the observation."""
    squash: bool = False
    """tanh of the sample (SHAC) instead of clamping it to the box with a penalty (SHAC++)."""
    normalise_obs: bool = True
    """Normalise observations by a snapshot of their running statistics."""
    head_gain: float = 0.01
    """Orthogonal gain of the last layer: a new policy is close to the middle of the box."""

    def __post_init__(self) -> None:
        require_range(self, "std", "head_gain", low=0.0)


class Actor(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to actions `(*batch, agent, act_dim)`."""

    log_std: Tensor
    box_center: Tensor
    box_half: Tensor

    def __init__(
        self, config: ActorConfig, agents: int, obs_dim: int, low: Tensor, high: Tensor
    ) -> None:
        """Build for the box `low`, `high` (agent, act_dim)."""
        super().__init__()
        self.config = config
        self.net = build_net(config.net, agents, obs_dim, low.shape[-1], head_gain=config.head_gain)
        self.statistics = RunningStatistics((obs_dim,))
        self.register_buffer("box_center", (low + high) / 2)
        self.register_buffer("box_half", (high - low) / 2)
        log_std = torch.full((low.shape[-1],), config.std).log()
        if config.learn_std:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, obs: Tensor) -> Tensor:
        """Return the mean action before squashing, in half boxes from the middle of the box."""
        out: Tensor = self.net(self.statistics(obs) if self.config.normalise_obs else obs)
        return out

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return the action for unit noise of the action's shape; None acts deterministically."""
        action = self(obs)
        if noise is not None:
            action = action + self.log_std.exp() * noise
        if self.config.squash:
            action = torch.tanh(action)
        return self.box_center + self.box_half * action

    def in_half_boxes(self, action: Tensor) -> Tensor:
        """Return actions in half boxes from the middle: the box is [-1, 1] whatever its size."""
        return (action - self.box_center) / self.box_half.clamp(min=1e-8)


class NoisyPolicy:
    """An actor with the noise of one window: a `WindowPolicy`."""

    def __init__(self, actor: Actor, noise: Tensor) -> None:
        """Start at step 0 of `noise` (time, env, agent, act_dim)."""
        self.actor = actor
        self.noise = noise
        self.step = 0

    def __call__(self, obs: Tensor) -> Tensor:
        """Act at the next step of the window."""
        action = self.at(obs, self.step)
        self.step += 1
        return action

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        """Act again at `step`; with a slice, `obs` has a leading time axis."""
        return self.actor.act(obs, self.noise[step])
