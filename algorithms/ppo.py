"""PPO, IPPO and MAPPO (arXiv:1707.06347, 2011.09533, 2103.01955).

They need no gradients of the env. On a `LearnedDiffWrapper` they also train its models, which can
pretrain them for SHAC++.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.critic import Critic, CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess
from diffsurrogate.actor_critic.hidden_states import HiddenStates, critic_past
from diffsurrogate.algorithms.clipped_surrogate import (
    ClipConfig,
    clipped_epochs,
    learns_own_return,
    policy_batch,
    refuse_squash,
    shuffled,
)
from diffsurrogate.algorithms.value_learning import ReturnScale, discount_for
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window, check_horizon
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import td_lambda
from diffsurrogate.nets.config import JointNetConfig, SeparateNetConfig
from diffsurrogate.optimisation import ClippedAdam, mean_report
from diffsurrogate.seeding import derive_seed, seeded
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.trainer import Trainer

_JOINT = JointNetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
_SEPARATE = SeparateNetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    horizon: int = 32
    """Steps of a window."""
    gamma: float | None = 0.99
    """Discount, in [0, 1]; None: by the env's time limit (`discount_for`)."""
    lam: float = 0.95
    """λ of advantages (GAE) and of value targets, in [0, 1]."""
    actor: ActorConfig = field(default_factory=lambda: ActorConfig(net=_JOINT, learn_std=True))
    """The policy."""
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(net=_JOINT, target_decay=0.0))
    """The value function."""
    clip: ClipConfig = field(default_factory=lambda: ClipConfig(ratio="joint", advantage="shared"))
    """Epochs, minibatches and clipping."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the value function."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """constant, or linear: learning rates fall to 0 over the training."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return, so that values are
    of order 1."""
    ema_decay: float = 0.0
    """Decay per iteration of the exponential moving average (EMA) of the policy's weights, which
    predictions use, such as 0.9; 0 uses the weights themselves."""
    randomise_episode_phase: bool = True
    """Start episodes at random phases, so that resets do not coincide."""

    @classmethod
    def ippo(cls) -> "PPOConfig":
        """Return the defaults of IPPO: each agent learns from its own observations and rewards."""
        return cls(
            actor=ActorConfig(net=_SEPARATE, learn_std=True),
            critic=CriticConfig(net=_SEPARATE, target_decay=0.0),
            clip=ClipConfig(),
        )

    @classmethod
    def mappo(cls) -> "PPOConfig":
        """Return the defaults of MAPPO: IPPO with a centralised critic."""
        return replace(cls.ippo(), critic=CriticConfig(net=_JOINT, target_decay=0.0))

    def __post_init__(self) -> None:
        require_choices(self)
        check_horizon(self.horizon)
        require_range(self, "lam", low=0.0, high=1.0)
        if self.gamma is not None:
            require_range(self, "gamma", low=0.0, high=1.0)
        require_range(self, "ema_decay", low=0.0, high=0.9999)
        require_range(self, "critic_lr", low=0.0)
        require_range(self.clip, "epochs", low=1.0)
        refuse_squash(self.actor)
        if self.critic.ensemble > 1:
            raise UsageError(
                f"critic.ensemble is {self.critic.ensemble}, but only SHAC has several value "
                "functions; leave it at 1"
            )


_EPS = 1e-5
"""Adam's ε; a smaller one amplifies the tiny gradients of a solved task, which unlearns it."""


class PPO(Trainer):
    """Proximal policy optimisation; by default one joint policy controls all agents.

    Example:
        >>> from diffsurrogate import PPO, make
        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = PPO(env).learn(total_steps=256)
    """

    config_type = PPOConfig
    config: PPOConfig

    def __init__(
        self, env: MultiAgentVectorEnv, config: PPOConfig | None = None, *, seed: int = 0
    ) -> None:
        """Build actor and critic for an env.

        Args:
            env: any `MultiAgentVectorEnv`; no gradients are needed.
            config: hyperparameters; None for `default_config()`.
            seed: of weights, noise and minibatches, and of the env's first reset.

        Raises:
            UsageError: the env is not a `MultiAgentVectorEnv`.
        """
        super().__init__(env, config or self.default_config(), seed)
        with seeded(derive_seed(seed, "weights")):
            actor = build_actor(self.config.actor, env)
            critic = Critic.of(self.config.critic, env)
        self._use_actor(actor, self.config.ema_decay)
        self.critic = critic.to(env.device)
        shape = (env.num_envs, env.num_agents, env.act_dim)
        self.noise = NoiseProcess(NoiseConfig(kind="white"), shape, self.noise_rng)
        apart = learns_own_return(self.config.clip, self.config.actor.net)
        gamma = self.config.gamma
        self.gamma = discount_for(env.max_steps) if gamma is None else gamma
        self.scale = ReturnScale(*shape[:2], self.gamma, apart=apart).to(env.device)
        limit = self.config.clip.max_grad_norm
        self.actor_optimiser = ClippedAdam(
            self.actor, self.config.clip.lr, max_grad_norm=limit, eps=_EPS
        )
        self.critic_optimiser = ClippedAdam(
            self.critic, self.config.critic_lr, max_grad_norm=limit, eps=_EPS
        )
        self.hidden = HiddenStates(self.actor, self.critic, env)
        self.register(
            critic=self.critic,
            reward_scale=self.scale,
            actor_optimiser=self.actor_optimiser,
            critic_optimiser=self.critic_optimiser,
        )
        if self.hidden.now:
            self.register(hidden=self.hidden)

    @classmethod
    def default_config(cls) -> PPOConfig:
        """Return the default hyperparameters."""
        return PPOConfig()

    def iterate(self) -> Metrics:
        """Collect one window, then train the policy, the critic and the env's models on it."""
        config = self.config
        self._set_learning_rates()
        self.actor.freeze_normaliser(self.minibatch_rng)
        self.critic.statistics.snapshot()
        noise = self.noise.draw(config.horizon)
        window = self.as_on_all_ranks(self._collect(noise))
        target, advantage = self._targets(window)
        kept = self.broken_copies.finite_copies(window)
        if kept is not None:
            if len(kept) == 0:
                self.actor_optimiser.count_skipped()
                return window.summary()
            window, noise = window.chosen(kept), noise[:, kept]
            target, advantage = target[:, kept], advantage[:, kept]
        report = self._policy_step(window, noise, advantage)
        report |= self._fit_critic(window, target)
        report |= window.summary() | {"value_target": float(target.mean())}
        report |= self.env.fit(window)
        self.actor.update_normaliser(window.obs, window.alive_mask)
        self.critic.statistics.update(window.obs, window.alive_mask)
        return report

    def _collect(self, noise: Tensor) -> Window:
        """Collect a window, with the hidden states in it."""
        policy = self.hidden.policy(self.env, noise)
        return self.hidden.record(self.env.collect(policy, self.config.horizon), policy)

    @record_function("policy update")
    def _policy_step(self, window: Window, noise: Tensor, advantage: Tensor) -> Metrics:
        """Train the policy on a window collected with `noise`; return metrics."""
        clip = self.config.clip
        return clipped_epochs(
            self.actor,
            policy_batch(window, self.actor, advantage),
            config=clip,
            generator=self.minibatch_rng,
            optimiser=self.actor_optimiser,
        )

    @torch.no_grad()
    def _targets(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return value targets and advantages, both (time, env, agent)."""
        reward = window.reward
        if self.config.scale_rewards:
            self.scale.update(reward, window.ended)
            reward = reward / self.scale.scale
        past = critic_past(window)
        value, next_value = self.critic.values_around(window.obs, window.next_obs, past)
        target = td_lambda(
            reward,
            next_value,
            window.terminated,
            window.truncated,
            gamma=self.gamma,
            lam=self.config.lam,
        )
        return target, target - value

    @record_function("critic update")
    def _fit_critic(self, window: Window, target: Tensor) -> Metrics:
        losses = []
        for value, wanted in self._value_minibatches(window, target):
            loss = (value - wanted).square().mean()
            self.critic_optimiser.step(loss, rows=value.numel())
            losses.append({"critic_loss": loss.detach()})
        return mean_report(losses)

    def _value_minibatches(self, window: Window, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield values and targets of single steps, or if recurrent of whole windows."""
        obs, clip, past = window.obs, self.config.clip, critic_past(window)
        if past is not None:
            for envs in shuffled(obs.shape[1], clip, self.minibatch_rng, steps=len(obs)):
                yield self.critic(obs[:, envs], past.of_envs(envs)), target[:, envs]
            return
        obs, target = obs.flatten(0, 1), target.flatten(0, 1)
        for chosen in shuffled(len(obs), clip, self.minibatch_rng):
            yield self.critic(obs[chosen]), target[chosen]

    def _set_learning_rates(self) -> None:
        if self.config.lr_schedule == "constant":
            return
        share = self.iteration / self.total_iterations
        self.actor_optimiser.anneal(share, 0.0)
        self.critic_optimiser.anneal(share, 0.0)


class IPPO(PPO):
    """Independent PPO: separate observations, rewards and, by default, weights per agent."""

    @classmethod
    def default_config(cls) -> PPOConfig:
        """Return `PPOConfig.ippo()`."""
        return PPOConfig.ippo()


class MAPPO(PPO):
    """PPO whose agents act on their own observations, with a centralised critic."""

    @classmethod
    def default_config(cls) -> PPOConfig:
        """Return `PPOConfig.mappo()`."""
        return PPOConfig.mappo()
