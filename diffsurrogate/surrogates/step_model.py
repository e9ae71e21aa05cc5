"""One-step residual dynamics, Fourier features and gradient attenuation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffsurrogate.config import require_range
from diffsurrogate.distributed import mean_over_ranks
from diffsurrogate.envs.window import Window
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import JointNetConfig, NetConfig
from diffsurrogate.nets.normaliser import OrdinaryRange, RunningStatistics, scale_of_change
from diffsurrogate.surrogates.dynamics import (
    Batch,
    LearnedDynamics,
    repeat_to,
)

_JUMPS = 0.01
"""Largest share of steps in which a feature jumps up, or down. A change beyond the quantiles of the
others by more than their distance is then a jump, such as a teleport; contacts are less rare."""


def fourier_features(x: Float[Tensor, "*b i"], num_frequencies: int) -> Float[Tensor, "*b o"]:
    """Append the sine and cosine of each feature at 1, 2, 4, ... radians per unit."""
    if num_frequencies == 0:
        return x
    angle = torch.cat([2.0**octave * x for octave in range(num_frequencies)], dim=-1)
    return torch.cat([x, angle.sin(), angle.cos()], dim=-1)


def fourier_dim(dim: int, num_frequencies: int) -> int:
    """Return the number of features `fourier_features` returns for `dim` features."""
    return dim * (1 + 2 * num_frequencies)


@dataclass(frozen=True, kw_only=True)
class StepModelConfig:
    r"""A one-step model $f(s, a) = s + \sigma_\Delta g(norm(s), a)$."""

    net: NetConfig = field(
        default_factory=lambda: JointNetConfig(hidden=(128, 128), activation="silu")
    )
    num_frequencies: int = 0
    """Fourier features (arXiv:2006.10739) per observation feature, starting at one radian per
    standard deviation and doubling; 0 for none, up to about 6 for contacts at a scale of 0.01
    standard deviations."""
    attenuate: bool = True
    """Gradient attenuation: multiply the gradient of each feature's change by the square of its R²
    on windows not trained on, and the gradient with respect to its previous value by that of its
    next value. Suppresses noisy Jacobians of unpredictable features. Noisy dynamics lower R² even
    if Jacobians are right; try False there."""
    leave_out_jumps: bool = True
    """Leave out of training and R² the changes of a feature that are rare and far from all others,
    such as teleports, which would take the units and the capacity of the rest. False where rare
    contacts matter."""

    def __post_init__(self) -> None:
        require_range(self, "num_frequencies", low=0.0)


class StepModel(LearnedDynamics):
    """Predicts the next observation; a new model predicts no change."""

    def __init__(self, config: StepModelConfig, agents: int, obs_dim: int, act_dim: int) -> None:
        """Build; the last layer is zero."""
        super().__init__()
        self.config = config
        in_dim = fourier_dim(obs_dim, config.num_frequencies) + act_dim
        self.net = build_net(config.net, agents, in_dim, obs_dim, head_gain=0.0)
        shape, shared = (agents, obs_dim), config.net.same_for_all
        self.obs_statistics = RunningStatistics(shape, shared=shared)
        self.change_statistics = RunningStatistics(shape, shared=shared, flags=False)
        self.attenuation = GradientAttenuation(agents, obs_dim)
        self.ordinary = OrdinaryRange(agents * obs_dim, tail=_JUMPS, spreads=1.0)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the predicted next observation `(*batch, agent, obs_dim)`.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), normalised.
        """
        change = self.change_scale * self._net(obs, action)
        if self.config.attenuate and torch.is_grad_enabled():
            return self.attenuation.attenuated(obs, change)
        return obs + change

    @property
    def change_scale(self) -> Tensor:
        """(agent, obs_dim): the unit of predicted changes."""
        return scale_of_change(self.change_statistics, self.obs_statistics)

    @property
    def usual_change(self) -> Tensor:  # type: ignore[override]
        """(agent, obs_dim), as `change_scale`."""
        return self.change_scale

    def begin(self, obs: Tensor) -> None:
        """Return no carry: a step depends on the current state only."""

    def step(self, carry: None, obs: Tensor, action: Tensor) -> tuple[Tensor, None]:
        """Return the next observation."""
        return self(obs, action), None

    def restart(self, carry: None, mask: Tensor, obs: Tensor) -> None:
        """Return no carry."""

    def predict(self, window: Window, action: Tensor) -> Tensor:
        """Predict the next observation of every step of a window."""
        out: Tensor = self(window.obs, action)
        return out

    @torch.no_grad()
    def evaluate(self, window: Window, predicted: Tensor) -> None:
        """Update the R² of each feature with a window not trained on."""
        steps = (predicted, window.obs, window.next_obs)
        kept = self._no_jumps(window.next_obs - window.obs)
        self.attenuation.update(*(x.flatten(0, -3) for x in (*steps, kept)))

    def items(self, window: Window, action: Tensor) -> Batch:
        """Return single transitions, keyed by the sum of rewards over agents."""
        return {
            "obs": window.obs.flatten(0, 1),
            "action": action.flatten(0, 1),
            "next_obs": window.next_obs.flatten(0, 1),
            "key": window.reward.flatten(0, 1).sum(-1),
        }

    def items_for(self, transitions: int) -> int:
        """Return `transitions`: an item is a transition."""
        return transitions

    def batch_size(self, transitions: int) -> int:
        """Return `transitions`: an item is a transition."""
        return transitions

    @torch.no_grad()
    def update_normaliser(
        self,
        obs: Tensor,
        next_obs: Tensor,
        draw: Callable[[int], Batch],
        alive: Tensor | None = None,
    ) -> None:
        """Update the statistics of observations and changes with a window."""
        self.obs_statistics.update(obs, alive)
        self.obs_statistics.snapshot()
        change = next_obs - obs
        if self.config.leave_out_jumps:
            self.ordinary.update(change.flatten(1))
        kept = self._no_jumps(change)
        usual = change if bool(kept.all()) else change.masked_fill(~kept, torch.nan)
        self.change_statistics.update(usual, alive)
        self.change_statistics.snapshot()

    def loss(self, batch: Batch, continuous: Tensor) -> Tensor:
        """Return the error of the continuous features' changes."""
        mask = continuous.to(batch["obs"].dtype)
        return self.error(batch["obs"], batch["action"], batch["next_obs"], mask)

    def response(self, batch: Batch, continuous: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function from actions to next observations, in the changes' deviations."""
        scale = continuous.to(batch["obs"].dtype) / self.change_scale
        return lambda action: self(repeat_to(batch["obs"], action), action) * scale

    def error(self, obs: Tensor, action: Tensor, next_obs: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error in units of the changes' standard deviation.

        `mask` (agent, obs_dim) is 1 for features to include; discrete ones are left out, as are
        jumps.
        """
        change = next_obs - obs
        kept = self._no_jumps(change)
        error = (self._net(obs, action) - change / self.change_scale).square() * mask * kept
        return error.sum() / (mask.sum().clamp(min=1) * error[..., 0, 0].numel())

    def _no_jumps(self, change: Tensor) -> Tensor:
        """Return which changes (*batch, agent, obs_dim) are no jumps; all, if none is left out."""
        return self.ordinary.holds(change.flatten(-2)).view_as(change)

    def _net(self, obs: Tensor, action: Tensor) -> Tensor:
        seen = fourier_features(self.obs_statistics(obs), self.config.num_frequencies)
        out: Tensor = self.net(torch.cat([seen, action], dim=-1))
        return out


DECAY = 0.9
"""Decay of the running means, per window."""


class GradientAttenuation(nn.Module):
    """Running R² of each feature's change and of its next value, on windows not trained on.

    R² is 1 before the first window, and 0 for features that do not change.
    """

    error: Tensor
    change: Tensor
    spread: Tensor
    windows: Tensor

    def __init__(self, agents: int, obs_dim: int) -> None:
        """Start with no data, for `obs_dim` features of each agent."""
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
        kept: Bool[Tensor, "step agent obs_dim"],
    ) -> None:
        """Update R² with the steps of a new window and their predictions, less those not `kept`."""
        self.windows += 1
        share = (1 - DECAY) / (1 - DECAY ** float(self.windows))  # bias-corrected running means
        center = mean_over_ranks(next_obs.mean(0), len(next_obs))
        whole, rows = bool(kept.all()), kept.sum(0)
        for mean, difference in (
            (self.error, predicted - next_obs),
            (self.change, next_obs - obs),
            (self.spread, next_obs - center),
        ):
            square = difference.square()
            new = square.mean(0) if whole else (square * kept).sum(0) / rows.clamp(min=1)
            mean.lerp_(mean_over_ranks(new, rows), share)

    @property
    def of_change(self) -> Float[Tensor, "agent obs_dim"]:
        """R² of each feature's change, relative to its mean square, in [0, 1]."""
        return self._share(self.change)

    @property
    def of_value(self) -> Float[Tensor, "agent obs_dim"]:
        """R² of each feature's next value, in [0, 1]."""
        return self._share(self.spread)

    def attenuated(
        self,
        obs: Float[Tensor, "*b agent obs_dim"],
        change: Float[Tensor, "*b agent obs_dim"],
    ) -> Float[Tensor, "*b agent obs_dim"]:
        """Return `obs + change`, with each part's gradient multiplied by the square of its R²."""
        parts = ((obs, self.of_value), (change, self.of_change))
        stays, moves = (x.detach() + s.square() * (x - x.detach()) for x, s in parts)
        return stays + moves

    def _share(self, of: Tensor) -> Tensor:
        share = (1 - self.error / of).clamp(min=0)
        known = torch.where(of > 0, share, 0.0)
        return torch.where(self.windows > 0, known, 1.0)
