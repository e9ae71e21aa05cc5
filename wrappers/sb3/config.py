"""Hyperparameters of Stable-Baselines3's PPO, SAC and TD3; reading them needs no extra."""

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
        _check_widths(self.hidden)


@dataclass(frozen=True, kw_only=True)
class SB3OffPolicyConfig:
    """What Stable-Baselines3's SAC and TD3 have in common, by the names ours have."""

    horizon: int = 32
    """Steps of every env in one update of the run: what the metrics, evaluations and checkpoints
    are counted in. Learning does not wait for it."""
    gamma: float = 0.99
    """Discount."""
    lr: float = 3e-4
    """Adam's learning rate of policy, critics and entropy weight."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training."""
    batch_size: int = 256
    """Transitions of a minibatch, one of which is what a slot went through in one step: an agent of
    an env, or a whole env if joint."""
    env_steps_per_gradient_step: int = 8
    """Env steps, counted over the copies, for which one minibatch is learned from. 1 is usual with
    a single copy; more learns less from each step, in less time."""
    learning_starts: int = 5_000
    """Env steps with uniformly random actions before anything is learned, usually 1,000 to 10,000;
    TD3 adds its noise to them."""
    capacity: int = 1_000_000
    """Transitions that are kept for replay (`buffer_size`), rounded down to whole steps of all
    slots. Checkpoints hold those there are."""
    target_decay: float = 0.995
    """α of the target networks' update φ' ← αφ' + (1-α)φ, in [0, 1) (1 - `tau`)."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the ReLU layers, of the policy and of each of the two critics."""
    joint: bool = True
    """One policy sees all agents and gives all actions; False for one that agents share, each with
    its own observation and reward."""
    randomise_episode_phase: bool = True
    """Begin with time limits spread over the envs, so that the replay soon holds all ages of
    episodes."""

    def __post_init__(self) -> None:
        require_choices(self)
        check_horizon(self.horizon)
        require_range(self, "gamma", low=0.0, high=1.0)
        require_range(self, "lr", "learning_starts", low=0.0)
        require_range(self, "batch_size", "capacity", "env_steps_per_gradient_step", low=1.0)
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"target_decay is {self.target_decay}; it must be in [0, 1)")
        _check_widths(self.hidden)


@dataclass(frozen=True, kw_only=True)
class SB3SACConfig(SB3OffPolicyConfig):
    """Hyperparameters of Stable-Baselines3's SAC; the defaults are its own, less the frequency."""

    entropy_weight: float | None = None
    """Weight of the entropy (`ent_coef`); None to learn it, towards an entropy of minus the number
    of action dimensions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.entropy_weight is not None:
            require_range(self, "entropy_weight", low=0.0)


@dataclass(frozen=True, kw_only=True)
class SB3TD3Config(SB3OffPolicyConfig):
    """Hyperparameters of Stable-Baselines3's TD3; the defaults are its own, less the frequency.

    But for `noise_std`: without noise in its actions, as is Stable-Baselines3's default, TD3 stops
    exploring once it learns.
    """

    lr: float = 1e-3
    hidden: tuple[int, ...] = (400, 300)
    noise_std: float = 0.1
    """Standard deviation of the noise in normalised actions while exploring, usually 0.1 to 0.3."""
    policy_delay: int = 2
    """Gradient steps of the critics for one of the policy and the target networks."""
    target_noise_std: float = 0.2
    """Standard deviation of the noise in the target policy's actions (`target_policy_noise`)."""
    target_noise_clip: float = 0.5
    """Largest such noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "noise_std", "target_noise_std", "target_noise_clip", low=0.0)
        require_range(self, "policy_delay", low=1.0)


def _check_widths(hidden: tuple[int, ...]) -> None:
    if not hidden or min(hidden) < 1:
        raise UsageError(f"hidden is {hidden}; give at least one width of at least 1")
