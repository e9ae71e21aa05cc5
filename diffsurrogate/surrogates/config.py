"""Which gradient is learned, by which models, with what budget."""

from dataclasses import dataclass, field
from typing import Literal

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Which gradient is learned, by which models, with what budget."""

    anchor: Literal["real", "predicted"] = "real"
    """real: models, reward and value are differentiated at the simulator's states. predicted: at
    the model's own predictions (the paper)."""
    loop: Literal["closed", "open"] = "closed"
    """closed: the policy's dependence on later observations is differentiated, as on a real
    simulator. open: actions only (the paper)."""
    adjoint_clip: float | None = None
    """Largest gradient that may arrive at one env's state along a window, in medians over the envs;
    None for no limit. A closed loop of policy and model can be chaotic: then few envs drown the
    others' gradient. Of learned dynamics: a simulator's own gradient is taken as it is."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    dynamics: StepModelConfig | ActionWorldModelConfig = field(default_factory=StepModelConfig)
    """A one-step residual model, chained along the window; or the paper's action world model, from
    the first state and all actions at once."""
    termination: bool = False
    """Learn the probability of termination and let it carry a gradient to all that comes after."""
    mixup_weight: float = 1.0
    """Weight of the demand that reward, step and termination model be linear in each agent's
    choice, where actions are choices: a gradient through a choice is the slope between them."""
    lr: float = 3e-3
    """Adam's learning rate of all models."""
    max_grad_norm: float = 1.0
    """Gradients of a minibatch are clipped to this norm."""
    minibatches: int = 8
    """Minibatches per update, for each model."""
    batch_size: int = 512
    """Transitions of a minibatch."""
    capacity: int = 20_000
    """Transitions each bin of the reward cache holds; the dynamics cache holds twice as many, as
    transitions or in trajectories, shared out among its bins."""
    reward_bins: int = 9
    """Bins of the reward cache, by reward."""
    reward_balance: float = 0.5
    """Share of a minibatch spread evenly over the occupied bins: rare rewards need it, dense ones
    are learned best as they come."""
    dynamics_bins: int = 1
    """Bins of the dynamics cache, by reward; 1 keeps the newest data whatever they paid."""
    fit_every: int = 1
    """Updates between two rounds of training."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "minibatches", "batch_size", low=1.0)
        require_range(self, "capacity", "fit_every", "reward_bins", "dynamics_bins", low=1.0)
        require_range(self, "reward_balance", low=0.0, high=1.0)
        require_range(self, "lr", "mixup_weight", low=0.0)
        require_range(self, "max_grad_norm", low=1e-12)
        if self.adjoint_clip is not None:
            require_range(self, "adjoint_clip", low=1e-12)

    @classmethod
    def paper(cls, agents: int) -> "SurrogateConfig":
        """Return the architecture, budget and estimator of SHAC++ (its tables 3 and section 3).

        The reward model sees (s, a, s'), nets are retrained every 10 windows, from caches in 9
        (reward) and 25 (world) bins. The reward cache holds the paper's 30,000 items; the world's
        30,000 trajectories are 960,000 transitions of a window of 32.
        """
        hidden = NetConfig(hidden=(32 * agents,) * 2, activation="relu")
        return cls(
            anchor="predicted",
            loop="open",
            reward=RewardConfig(net=hidden, inputs="s,a,s'"),
            dynamics=ActionWorldModelConfig(
                predict="absolute", normalise=False, batch_size=1000, trajectories=30_000 // 25
            ),
            lr=1e-3,
            minibatches=300,
            batch_size=1000,
            capacity=30_000 // 9,
            dynamics_bins=25,
            fit_every=10,
        )
