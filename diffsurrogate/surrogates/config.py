"""Configuration of the learned models: gradient estimator, models and their training."""

from dataclasses import dataclass, field
from typing import Literal

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.nets.config import JointNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Training of the models: loss, optimiser, replay buffers and budget."""

    mixup_weight: float = 1.0
    """Weight of the mixup consistency loss of reward, step and termination models, with discrete
    actions only: it makes predictions linear between actions; 0 for none."""
    lr: float = 3e-3
    """Adam's learning rate of all models."""
    max_grad_norm: float = 1.0
    """Gradients of a minibatch are clipped to this norm."""
    minibatches: int = 8
    """Minibatches per round of training, for each model."""
    batch_size: int = 512
    """Transitions per minibatch."""
    capacity: int = 20_000
    """Transitions per bin of the reward replay buffer. The dynamics replay buffer holds twice as
    many over all bins."""
    reward_bins: int = 9
    """Bins of the reward replay buffer, by reward."""
    reward_balance: float = 0.5
    """Share of a minibatch drawn evenly from the occupied bins, in [0, 1]; the rest is uniform.
    Higher for rare rewards, 0 for dense ones."""
    dynamics_bins: int = 1
    """Bins of the dynamics replay buffer, by reward; 1 keeps the newest data."""
    every: int = 1
    """Updates per round of training."""

    def __post_init__(self) -> None:
        require_range(self, "minibatches", "batch_size", "capacity", "every", low=1.0)
        require_range(self, "reward_bins", "dynamics_bins", low=1.0)
        require_range(self, "reward_balance", low=0.0, high=1.0)
        require_range(self, "lr", "mixup_weight", low=0.0)
        require_range(self, "max_grad_norm", low=1e-12)


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Gradient estimator, models and their training."""

    anchor: Literal["real", "predicted"] = "real"
    """Where models, reward and value are differentiated. real: at the simulator's states.
    predicted: at the model's predictions (the paper)."""
    loop: Literal["closed", "open"] = "closed"
    """closed: gradients also pass through the policy's dependence on later observations, as on a
    differentiable simulator. open: through actions only (the paper)."""
    adjoint_clip: float | None = None
    """Adjoint clipping: largest gradient norm with respect to one env's state at a step, in medians
    over envs, such as 3; None for no limit. Applies to learned dynamics only. Limits the influence
    of a few envs with chaotic gradients."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model."""
    dynamics: StepModelConfig | ActionWorldModelConfig = field(default_factory=StepModelConfig)
    """A one-step residual model, chained along the window; or the paper's action world model, which
    predicts from the first state and all actions."""
    termination: bool = False
    """Learn the probability of termination, and let it pass a gradient to later rewards."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Training of the models."""

    def __post_init__(self) -> None:
        require_choices(self)
        if self.adjoint_clip is not None:
            require_range(self, "adjoint_clip", low=1e-12)

    @classmethod
    def paper(cls, agents: int) -> "SurrogateConfig":
        """Return the models, budget and estimator of SHAC++ (its table 3 and section 3).

        The reward model sees (s, a, s'); models are trained every 10 windows, from replay buffers
        with 9 (reward) and 25 (dynamics) bins. The reward buffer holds the paper's 30,000 items,
        the dynamics buffer 30,000 trajectories: 960,000 transitions with windows of 32 steps.
        """
        hidden = JointNetConfig(hidden=(32 * agents,) * 2, activation="relu")
        return cls(
            anchor="predicted",
            loop="open",
            reward=RewardConfig(net=hidden, inputs="s,a,s'"),
            dynamics=ActionWorldModelConfig(
                predict="absolute", normalise=False, batch_size=1000, trajectories=30_000 // 25
            ),
            fit=FitConfig(
                lr=1e-3,
                minibatches=300,
                batch_size=1000,
                capacity=30_000 // 9,
                dynamics_bins=25,
                every=10,
            ),
        )
