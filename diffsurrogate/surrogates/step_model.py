"""One-step residual dynamics and the probability that a step ends the episode."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.config import require_range
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.normaliser import RunningStatistics
from diffsurrogate.surrogates.features import GradientAttenuation


def fourier_features(x: Float[Tensor, "*b i"], num_frequencies: int) -> Float[Tensor, "*b o"]:
    """Append sine and cosine of each feature at 1, 2, 4, ... radians per unit (`num_frequencies`
    many).
    """
    if num_frequencies == 0:
        return x
    angle = torch.cat([2.0**octave * x for octave in range(num_frequencies)], dim=-1)
    return torch.cat([x, angle.sin(), angle.cos()], dim=-1)


def fourier_dim(dim: int, num_frequencies: int) -> int:
    """Return how many features `fourier_features` makes of `dim`."""
    return dim * (1 + 2 * num_frequencies)


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
    num_frequencies: int = 0
    """Sines and cosines of each observation entry that the network is shown besides, each of twice
    the last one's frequency, the first of one radian per deviation. Contact is a matter of a
    hundredth of a deviation, which a small network does not resolve by itself
    (arXiv:2006.10739)."""
    attenuate: bool = True
    """Let a gradient pass only as far as the future can be foretold: that of each entry's change
    times the square of the change's explained share in windows not seen before, that of its own
    past likewise by the next value's. Slopes of what a model cannot know (a ray that jumps to the
    next obstacle) are noise, which grows with every step along a chain. What chance moves cannot be
    foretold either, though its slopes may be right: there, try without."""

    def __post_init__(self) -> None:
        require_range(self, "num_frequencies", low=0.0)
        require_range(self, "obs_floor", "change_floor", low=1e-12)


class StepModel(nn.Module):
    """Predicts the next observation; a new model means "nothing moves"."""

    def __init__(self, config: StepModelConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the last layer is zero."""
        super().__init__()
        self.config = config
        in_dim = fourier_dim(obs_dim, config.num_frequencies) + act_dim
        self.net = build_net(config.net, agents, in_dim, obs_dim, head_gain=0.0)
        self.obs_statistics = RunningStatistics((obs_dim,), floor=config.obs_floor)
        self.change_statistics = RunningStatistics((obs_dim,), floor=config.change_floor)
        self.predictability = GradientAttenuation(agents, obs_dim)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the predicted next observation `(*batch, agent, obs_dim)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), in half boxes.
        """
        change = self.change_statistics.std * self._net(obs, action)
        if self.config.attenuate and torch.is_grad_enabled():
            return self.predictability.attenuated(obs, change)
        return obs + change

    @torch.no_grad()
    def update_explained_variance(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> None:
        """Learn from steps not trained on how far each entry's change can be foretold."""
        steps = (self(obs, action), obs, next_obs)
        self.predictability.update(*(x.flatten(0, -3) for x in steps))

    def loss(self, obs: Tensor, action: Tensor, next_obs: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error in units of the changes' standard deviation.

        `mask` (agent, obs_dim) is 1 where an entry counts: entries that only take discrete values
        are no dynamics a gradient could use.
        """
        change = (next_obs - obs) / self.change_statistics.std
        error = (self._net(obs, action) - change).square() * mask
        return error.sum() / (mask.sum().clamp(min=1) * error[..., 0, 0].numel())

    def _net(self, obs: Tensor, action: Tensor) -> Tensor:
        seen = fourier_features(self.obs_statistics(obs), self.config.num_frequencies)
        out: Tensor = self.net(torch.cat([seen, action], dim=-1))
        return out
