"""Hyperparameters of SHAC."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, refuse_memory, refuse_squash
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import check_horizon
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig


@dataclass(frozen=True, kw_only=True)
class SHACConfig:
    """Hyperparameters of SHAC; the defaults are for smooth simulators, `mixed` for the others."""

    horizon: int = 32
    """Steps of a window."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """λ of the value targets, TD(λ)."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic: CriticConfig = field(
        default_factory=lambda: CriticConfig(
            net=NetConfig(architecture="shared", activation="silu")
        )
    )
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(kind="auto"))
    actor_lam: float | None = None
    """λ of the return the policy ascends from every state of a window; None for SHAC's own
    objective, the window's rewards and the value at its end."""
    actor_epochs: int = 1
    """Passes of the policy over a window; more than one pass, minibatch or piece needs an env that
    is learned as a whole (SHAC++)."""
    actor_minibatches: int = 1
    """Steps of the policy per pass, each on a random part of the window. Score steps take the
    pathwise gradient of one such part."""
    segment_length: int | None = None
    """Steps of the pieces that a window is cut into for the policy; None for the whole window, as
    is what is longer.
    Shorter ones see less far and err less: slopes of models are multiplied along a piece."""
    score: ClipConfig = field(
        default_factory=lambda: ClipConfig(epochs=0, advantage="shared", target_kl=0.03)
    )
    """Steps up PPO's clipped objective on each window, which take the place of the pathwise step
    and hold its gradient as a part; 0 epochs for none. A pathwise gradient sees nothing where the
    reward does not change under small changes of the action; the score-function gradient does, at
    the price of its variance. `actor_lr` then is `score.lr`, and `clip` `score.max_grad_norm`."""
    pathwise_weight: float = 0.3
    """Weight of the pathwise gradient in score steps, in units of the advantages' deviation."""
    pathwise_steps: int | None = None
    """Env steps over which `pathwise_weight` falls to 0, evenly; None keeps it. Slopes show early
    where rewards are, and lead astray from the last of them where models err. Models go on
    learning."""
    choices: Literal["sampled", "all"] = "sampled"
    """Where actions are choices. sampled: a window is differentiated through the choices drawn in
    it (straight-through). all: each agent's choices are weighed by what the models say each would
    have led to one step on, given those of the others; no choice is left to chance, and nothing is
    seen further ahead than by the value."""
    expectile: float = 0.5
    """Expectile the critic learns (arXiv:2110.06169, eq. 5): .5 is the mean; more of it believes
    in the better outcomes of a state, which draws a policy to where rewards of either sign are."""
    expectile_one_signed: float | None = None
    """What `expectile` comes down to where no losses cancel gains (`RewardSignBalance`). With
    rewards of one sign nothing is hidden by a mean, and a high expectile only overrates every state
    whose outcomes differ, more so with every bootstrap. None leaves `expectile` as it is."""
    final_std: float | None = None
    """Standard deviation of the policy at which its noise ends; None keeps `actor.std`."""
    std_steps: int = 1_000_000
    """Env steps over which the deviation falls, geometrically, to `final_std`."""
    actor_lr: float = 3e-3
    """Adam's learning rate of the policy."""
    critic_lr: float = 3e-3
    """Adam's learning rate of the value function."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: learning rates fall to `final_lr` over the training."""
    final_lr: float = 1e-5
    """Learning rate at the end of a linear schedule."""
    betas: tuple[float, float] = (0.7, 0.95)
    """Of Adam; SHAC's own (arXiv:2204.07137, table 4), faster here than Adam's defaults."""
    clip: float = 1.0
    """Largest gradient norm of actor and critic."""
    scale_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return, so that values are of order
    1 and learned as fast whatever the rewards' units. `action_penalty_weight` then is in these
    units too."""
    action_penalty_weight: float = 1.0
    """α of the penalty on actions outside the box (SHAC++, eq. 3)."""
    action_penalty_on: Literal["samples", "means"] = "samples"
    """samples: of actions with their noise (the paper), which also pulls every mean towards the
    middle, at a deviation of 1 by .63 of its size near it: steady, but a policy whose gradient is
    weak comes to rest. means: of actions without it, which leaves a mean inside the box alone."""
    critic_updates: int = 8
    """Minibatches the critic is trained on per update."""
    critic_batch_size: int = 512
    """States of a minibatch."""
    value_capacity: int = 20_000
    """States each bin of the value cache holds; 0 trains the critic on the current window only."""
    value_bins: int = 9
    value_balance: float = 0.5
    """Share of a critic minibatch that is spread evenly over the bins of the value cache."""
    ema_decay: float = 0.0
    """Decay per update of a running mean of the policy's weights, which predictions are made with;
    0 predicts with the weights as they are. Policies waver from update to update, their mean less
    so. Early on less is kept, so that it never lags by more than about a ninth of the updates."""
    randomise_episode_phase: bool = True
    """Begin with time limits spread over the envs, so that windows hold all ages of episodes."""

    @classmethod
    def suited_to(cls, env: MultiAgentVectorEnv) -> "SHACConfig":
        """Return what `SHAC(env)` takes: `mixed()` where the simulator has no gradients at all.

        As with most simulators of other libraries. Else the defaults, as for VMAS.
        """
        if env.native_gradients:
            return cls()
        mixed = cls.mixed()
        if not env.can_replay:
            mixed = replace(mixed, segment_length=None)
        return replace(mixed, horizon=min(mixed.horizon, env.max_horizon or mixed.horizon))

    @classmethod
    def mixed(cls) -> "SHACConfig":
        """Return what learns on envs of other libraries; it is what the command line takes there.

        Their rewards are of any size, states end their episodes, and contacts multiply a pathwise
        gradient, which over a few steps points where the score's does, and over a whole window
        elsewhere (`docs/findings.md`). A small deviation keeps a robot on its feet, and a
        critic of the latest window alone keeps up with returns that grow a thousandfold. Windows
        are long, to be those of few envs: 16, say.

        Pieces need learned dynamics and reward; for SHAC+ take `replace(mixed(),
        segment_length=None)`.
        """
        return cls(
            horizon=128,
            gamma=0.995,
            actor=ActorConfig(std=0.5, learn_std=True),
            noise=NoiseConfig(kind="white"),
            score=ClipConfig(
                epochs=10, batch_size=256, lr=5e-4, advantage="shared", target_kl=0.03
            ),
            pathwise_weight=0.5,
            segment_length=4,
            actor_lam=0.95,
            action_penalty_weight=0.0,
            scale_rewards=True,
            critic_updates=40,
            value_capacity=0,
            ema_decay=0.9,
        )

    def __post_init__(self) -> None:
        require_choices(self)
        refuse_memory("SHAC", self.actor.net, self.critic.net)
        check_horizon(self.horizon)
        require_range(self, "critic_updates", "critic_batch_size", "value_bins", low=1.0)
        require_range(self, "gamma", "lam", "value_balance", low=0.0, high=1.0)
        require_range(self, "ema_decay", low=0.0, high=0.9999)
        require_range(self, "actor_epochs", "actor_minibatches", low=1.0)
        if self.segment_length is not None:
            self._check_pieces(self.segment_length)
        require_range(self, "pathwise_weight", low=0.0)
        require_range(self, "expectile", low=0.01, high=0.99)
        self._check_score()
        for name, low, high in (
            ("actor_lam", 0.0, 1.0),
            ("expectile_one_signed", 0.01, 0.99),
            ("pathwise_steps", 1.0, math.inf),
        ):
            if getattr(self, name) is not None:
                require_range(self, name, low=low, high=high)
        if self.final_std is not None:
            require_range(self, "final_std", low=1e-6)
            if self.actor.learn_std or self.actor.std <= 0:
                raise UsageError(
                    "final_std lets a fixed deviation fall; leave it out with actor.learn_std, and "
                    f"start from an actor.std above 0 (it is {self.actor.std})"
                )
        require_range(self, "std_steps", low=1.0)
        require_range(self, "value_capacity", "action_penalty_weight", low=0.0)
        require_range(self, "actor_lr", "critic_lr", "final_lr", low=0.0)
        require_range(self, "clip", low=1e-12)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas are {self.betas}; each must be in [0, 1)")

    def _check_score(self) -> None:
        """Refuse what does not go with score steps, or without them."""
        if self.score.epochs == 0:
            if self.pathwise_steps is not None:
                raise UsageError(
                    "pathwise_steps ends the pathwise gradient, but without score steps the policy "
                    "has no other; set score.epochs, or leave pathwise_steps out"
                )
            return
        if self.pathwise_steps is not None and self.pathwise_weight == 0:
            raise UsageError(
                "pathwise_steps lets pathwise_weight fall to 0, where it is already; leave it out"
            )
        if self.actor_epochs > 1:
            raise UsageError(
                "actor_epochs are of pathwise steps, but score steps take their place; set "
                "score.epochs to 0, or actor_epochs to 1"
            )
        refuse_squash(self.actor)
        if self.noise.kind not in ("auto", "white", "ou"):
            raise UsageError(
                f"score needs the density of each action, which {self.noise.kind} noise does "
                "not give; use white or ou noise"
            )

    def _check_pieces(self, length: int) -> None:
        """Refuse pieces that a window cannot be cut into."""
        require_range(self, "segment_length", low=1.0)
        if self.horizon % min(length, self.horizon):
            raise UsageError(
                f"segment_length is {length}; give one that divides the horizon, {self.horizon}, or "
                "None for whole windows"
            )

    def expectile_at(self, sign_balance: float) -> float:
        """Return the expectile for a share of rewards, in [0, 1], that cancel each other."""
        resolve_noise = (
            self.expectile if self.expectile_one_signed is None else self.expectile_one_signed
        )
        return resolve_noise + (self.expectile - resolve_noise) * sign_balance

    @property
    def replays(self) -> bool:
        """Whether the policy learns from a window in more than one piece or step."""
        return self.actor_epochs * self.actor_minibatches > 1 or self.segment_length is not None
