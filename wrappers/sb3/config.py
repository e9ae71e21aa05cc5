"""Hyperparameters of Stable-Baselines3's PPO, which need no Stable-Baselines3 to be read."""

from dataclasses import dataclass
from typing import Literal

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.window import check_horizon
from diffsurrogate.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SB3Config:
    """Hyperparameters of Stable-Baselines3's PPO, by the names ours have."""

    horizon: int = 32
    """Steps of a rollout (`n_steps`)."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """λ of advantages (`gae_lambda`)."""
    epochs: int = 4
    """Passes over a rollout (`n_epochs`)."""
    batch_size: int = 2048
    """Slots of a minibatch: agents of envs, or whole envs if joint."""
    clip_range: float = 0.2
    """How far the ratio of new to old density may move a sample's gain."""
    lr: float = 1e-3
    """Adam's learning rate of policy and value function."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus (`ent_coef`)."""
    value_weight: float = 0.5
    """Weight of the value function's loss (`vf_coef`)."""
    max_grad_norm: float = 0.5
    """Largest gradient norm."""
    std: float | None = None
    """Initial standard deviation of normalised actions; None for Stable-Baselines3's
    own, which is 1 in the actions' units."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the tanh layers, of the policy and of the value function."""
    joint: bool = True
    """One policy sees all agents and gives all actions; False for one that agents share, each with
    its own observation and reward."""
    normalise: bool = True
    """Observations and rewards go through `VecNormalize`."""
    randomise_episode_phase: bool = True
    """Begin with time limits spread over the envs, so that rollouts hold all ages of episodes."""

    def __post_init__(self) -> None:
        require_choices(self)
        check_horizon(self.horizon)
        require_range(self, "gamma", "lam", low=0.0, high=1.0)
        require_range(self, "epochs", low=1.0)
        require_range(self, "batch_size", low=2.0)
        require_range(self, "clip_range", "max_grad_norm", low=1e-12)
        if self.std is not None:
            require_range(self, "std", low=1e-12)
        require_range(self, "lr", "entropy_weight", "value_weight", low=0.0)
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden is {self.hidden}; give at least one width of at least 1")
