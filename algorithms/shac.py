"""Short-Horizon Actor-Critic with native or learned gradients (arXiv:2204.07137).

`SHAC(env)` is SHAC on a differentiable env, SHAC++ on a `LearnedDiffWrapper`, and SHAC+ on one with
`dynamics=False`; the trainer is the same.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.critic import Critic, CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess, resolve_noise
from diffsurrogate.actor_critic.hidden_states import HiddenStates
from diffsurrogate.algorithms.adaptive_horizon import MAX_GROWTH
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, refuse_squash
from diffsurrogate.algorithms.max_entropy import EntropyBonus, EntropyConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig, learns_apart
from diffsurrogate.algorithms.policy_updates import (
    GradientUpdateConfig,
    HybridUpdateConfig,
    UpdateConfig,
    build_update,
)
from diffsurrogate.algorithms.value_learning import (
    ValueLearning,
    ValueLearningConfig,
    discount_for,
)
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.distributed import world_size
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import check_adapted
from diffsurrogate.envs.window import check_horizon
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SharedNetConfig
from diffsurrogate.seeding import derive_seed, seeded
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.trainer import Trainer

FINAL_LR = 1e-5
"""Learning rate at the end of a linear schedule."""
_EARLY = 200_000
"""Env steps over which the learned gradient of robots fades out: later PPO's knows as much."""
_SEGMENT = 4
"""Steps of a segment by default: further ahead, models of robots lead astray."""


@dataclass(frozen=True, kw_only=True)
class SHACConfig:
    """Hyperparameters of SHAC; the defaults are the plain pathwise update, for smooth tasks."""

    horizon: int = 32
    """Steps of a window, usually 16 to 128."""
    gamma: float | None = 0.99
    """Discount, in [0, 1]; None: by the env's time limit (`discount_for`)."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The policy."""
    critic: CriticConfig = field(
        default_factory=lambda: CriticConfig(net=SharedNetConfig(activation="silu"))
    )
    """The value function."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(kind="auto"))
    """Exploration noise."""
    update: UpdateConfig = field(default_factory=GradientUpdateConfig)
    """Policy update: plain optimiser steps, or PPO's clipped steps with a gradient added."""
    value: ValueLearningConfig = field(default_factory=ValueLearningConfig)
    """Training of the value function."""
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    """Bonus for the policy's entropy; none by default."""
    scale_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, so that values are
    of order 1."""
    betas: tuple[float, float] = (0.7, 0.95)
    """Adam's betas, for the critic and plain policy steps (arXiv:2204.07137, table 4)."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """constant, or linear: learning rates fall to 1e-5 over the training."""
    ema_decay: float = 0.0
    """Decay per iteration of the exponential moving average (EMA) of the policy's weights, which
    predictions use, such as 0.9; 0 uses the weights themselves."""
    randomise_episode_phase: bool = True
    """Start episodes at random phases, so that resets do not coincide."""

    @classmethod
    def suited_to(cls, env: MultiAgentVectorEnv) -> "SHACConfig":
        """Return the default configuration of `SHAC(env)`: `hybrid` for its number of copies."""
        config = cls.hybrid(
            env.num_envs * world_size(), learned=env.can_replay, articulated=env.articulated
        )
        longest = env.max_horizon or config.horizon
        return config if config.horizon <= longest else replace(config, horizon=_whole(longest))

    @classmethod
    def hybrid(
        cls, num_envs: int = 16, *, learned: bool = True, articulated: bool = False
    ) -> "SHACConfig":
        """Return settings for envs that nobody tuned to: PPO's steps plus the pathwise gradient.

        A pathwise gradient alone is trapped where the goal, an obstacle or a contact is out of its
        sight. Suits rewards of any scale and early termination. Windows hold about 2048 steps, of
        32 to 128 each.

        Args:
            num_envs: copies of the env.
            learned: gradients are of learned dynamics and rewards (SHAC++), along segments of 4
                steps; False for SHAC and SHAC+, whose horizon adapts to the simulator's gradient,
                and whose learning rates fall over the training.
            articulated: the env's bodies fall over where actions are large
                (`MultiAgentVectorEnv.articulated`); begins with half of the exploration. The weight
                of learned gradients then falls from 1 to 0 over 200,000 env steps.
        """
        falls = learned and articulated
        horizon = _whole(min(max(2048 // num_envs, 32), 128))
        batch_size = max(256, horizon * num_envs // 8)
        return cls(
            horizon=horizon,
            gamma=None,
            actor=ActorConfig(std=0.5 if articulated else 1.0, learn_std=True),
            critic=CriticConfig(net=SharedNetConfig(activation="silu", agent_id=True)),
            noise=NoiseConfig(kind="white"),
            update=HybridUpdateConfig(
                ppo=ClipConfig(
                    epochs=10, batch_size=batch_size, lr=5e-4, advantage="shared", target_kl=0.03
                ),
                weight=1.0 if falls else 0.5,
                weight_steps=_EARLY if falls else None,
                gradient=PathwiseConfig(
                    lam=0.95,
                    segment_length=_SEGMENT if learned else None,
                    max_growth=None if learned else MAX_GROWTH,
                    action_penalty_weight=0.0,
                ),
            ),
            value=ValueLearningConfig(minibatches=40, capacity=0),
            scale_rewards=True,
            lr_schedule="constant" if learned else "linear",
            ema_decay=0.9,
        )

    def __post_init__(self) -> None:
        require_choices(self)
        if self.critic.net.gru_size > 0 and self.value.capacity > 0:
            raise UsageError(
                f"critic.net.gru_size is {self.critic.net.gru_size}, but value.capacity is "
                f"{self.value.capacity}: a recurrent critic learns from whole windows, which the "
                "replay of single states does not keep; set value.capacity to 0"
            )
        check_horizon(self.horizon)
        if self.gamma is not None:
            require_range(self, "gamma", low=0.0, high=1.0)
        require_range(self, "ema_decay", low=0.0, high=0.9999)
        if isinstance(self.update.gradient, PathwiseConfig):
            self.update.gradient.check_horizon(self.horizon)
        if isinstance(self.update, HybridUpdateConfig):
            refuse_squash(self.actor)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas are {self.betas}; each must be in [0, 1)")


class SHAC(Trainer):
    """Short-Horizon Actor-Critic (arXiv:2204.07137, algorithm 1); SHAC++ on learned models.

    Example:
        >>> from diffsurrogate import SHAC, make
        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4, differentiable=True)
        >>> agent = SHAC(env).learn(total_steps=256)
        >>> action = agent.predict(env.current_obs, deterministic=True)
    """

    config_type = SHACConfig
    config: SHACConfig

    def __init__(
        self, env: MultiAgentVectorEnv, config: SHACConfig | None = None, *, seed: int = 0
    ) -> None:
        """Build actor and critic for an env.

        Args:
            env: with gradients of dynamics and reward, native or learned.
            config: hyperparameters; None for `SHACConfig.suited_to(env)`.
            seed: of weights, noise and minibatches, and of the env's first reset.

        Raises:
            UsageError: the env lacks gradients, or does not support the configuration.
        """
        _check_env(env)
        super().__init__(env, config or SHACConfig.suited_to(env), seed)
        config = self.config
        if env.max_horizon is not None and config.horizon > env.max_horizon:
            raise UsageError(
                f"horizon is {config.horizon}, but the world model reaches only "
                f"{env.max_horizon} steps; shorten the horizon, or raise its max_horizon"
            )
        noise = resolve_noise(config.noise, discrete=env.discrete_actions)
        if env.discrete_actions and isinstance(config.update, HybridUpdateConfig):
            if noise.kind != "white":
                raise UsageError(
                    f"PPO's steps need the probability of each discrete action, which {noise.kind} "
                    "noise does not provide; use white noise"
                )
        with seeded(derive_seed(seed, "weights")):
            actor = build_actor(config.actor, env)
            self.critic = Critic.of(config.critic, env).to(env.device)
        self._use_actor(actor, config.ema_decay)
        self.entropy: EntropyBonus | None = None
        if config.entropy.temperature > 0:
            limit = config.value.max_grad_norm
            self.entropy = EntropyBonus(
                config.entropy, self.actor, max_grad_norm=limit, betas=config.betas
            )
            self.register(
                temperature=self.entropy.weight, temperature_optimiser=self.entropy.optimiser
            )
        self.hidden = HiddenStates(self.actor, self.critic, env)
        shape = (env.num_envs, env.num_agents, env.act_dim)
        self.noise = NoiseProcess(noise, shape, self.noise_rng)
        self.value = ValueLearning(
            config.value,
            self.critic,
            num_envs=env.num_envs,
            num_agents=env.num_agents,
            gamma=discount_for(env.max_steps) if config.gamma is None else config.gamma,
            scale_rewards=config.scale_rewards,
            apart=learns_apart(config.update.gradient, config.actor, env.num_agents),
            betas=config.betas,
            generator=self.minibatch_rng,
            entropy=self.entropy,
        )
        self.policy_update = build_update(
            config.update,
            env,
            self.actor,
            self.value,
            horizon=config.horizon,
            betas=config.betas,
            generator=self.minibatch_rng,
        )
        if self.policy_update.gradient.adaptive is not None:
            self.register(adaptive_horizon=self.policy_update.gradient.adaptive)
        self.register(
            critic=self.critic,
            reward_scale=self.value.scale,
            sign_balance=self.value.sign_balance,
            actor_optimiser=self.policy_update.optimiser,
            critic_optimiser=self.value.optimiser,
            noise=self.noise,
        )
        if self.hidden.now:
            self.register(hidden=self.hidden)
        if self.value.replay is not None:
            self.register(value_replay=self.value.replay)

    def iterate(self) -> Metrics:
        """Collect one window, then train the policy, the critic and the env's models on it."""
        self._anneal()
        self.policy_update.begin(self.env_steps)
        self.env.detach()  # a window's graph begins here
        self.actor.freeze_normaliser(self.minibatch_rng)  # one window, one normalisation
        self.critic.statistics.snapshot()
        noise, noise_state = self.noise.draw_with_state(self.config.horizon)
        policy = self.hidden.policy(self.env, noise)
        window = self.policy_update.collect(policy, self.config.horizon)
        window = self.as_on_all_ranks(self.hidden.record(window, policy))
        target = self.value.targets(window)  # eq. 6 and 7, without a gradient
        kept = self.broken_copies.finite_copies(window)
        if kept is not None:
            if len(kept) == 0:
                self.policy_update.optimiser.count_skipped()
                return window.detach().summary()
            window, noise, target = window.chosen(kept), noise[:, kept], target[:, kept]
            noise_state = None if noise_state is None else noise_state.of_envs(kept)
        metrics = self.policy_update.step(window, noise, noise_state, target)  # eq. 5
        window = window.detach()  # from here on, nothing can reach the policy
        self.env.detach()  # nor hold a graph: a trainer can be copied between its windows
        metrics |= window.summary()
        if self.entropy is not None:
            metrics |= self.entropy.adapt(window)
        metrics |= self.value.fit(window, target)  # eq. 8
        if self.policy_update.needs_gradients:
            metrics |= self.env.fit(window)  # last: models must not change under a live graph
        self.actor.update_normaliser(window.obs, window.alive_mask)
        self.critic.statistics.update(window.obs, window.alive_mask)
        return metrics

    def _anneal(self) -> None:
        if self.config.lr_schedule == "linear":
            share = self.iteration / self.total_iterations
            self.policy_update.optimiser.anneal(share, FINAL_LR)
            self.value.optimiser.anneal(share, FINAL_LR)


def _whole(horizon: int) -> int:
    """Return the longest window up to `horizon` that default segments divide."""
    return horizon if horizon < _SEGMENT else horizon - horizon % _SEGMENT


def _check_env(env: MultiAgentVectorEnv) -> None:
    """Refuse an env without both gradients, and say how to get them."""
    check_adapted(env, "SHAC cannot train on", "wrap it: SHAC(LearnedDiffWrapper({}))")
    if env.gradients != {"dynamics", "reward"}:
        has = " and ".join(sorted(env.gradients)) or "none"
        raise UsageError(
            f"SHAC needs gradients of dynamics and reward, but {env.name_in_errors} has {has}. "
            "Wrap it: SHAC(LearnedDiffWrapper(env)); or, if its simulator is differentiable, "
            "make it with differentiable=True"
        )
