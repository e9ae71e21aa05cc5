"""Policies over the action box, or over choices, and their windows of noise."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.choices import one_hot_of, straight_choice
from diffsurrogate.configuration import require_range
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.nets import NetConfig, build_net
from diffsurrogate.noise import NoiseMemory
from diffsurrogate.normalise import RunningStatistics


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    r"""A Gaussian policy $a = \mu(o) + \sigma \epsilon$, in units of half the action box.

    Where actions are choices (`MultiAgentVectorEnv.discrete_actions`), the policy is a softmax over
    them and `std`, `learn_std` and `squash` do not apply.
    """

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
    missing: Tensor | None
    """(agent, act_dim) bool: choices an agent has not."""

    def __init__(
        self,
        config: ActorConfig,
        agents: int,
        obs_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        discrete: bool = False,
        available: Tensor | None = None,
    ) -> None:
        """Build for the box `low`, `high` (agent, act_dim).

        Args:
            config: shape of the network and of the noise.
            agents: number of them.
            obs_dim: features of one agent's observation.
            low: lower ends of the box.
            high: upper ends.
            discrete: actions are one-hot choices among act_dim.
            available: (agent, act_dim) bool, which choices each agent has; None for all.
        """
        super().__init__()
        self.config = config
        self.discrete = discrete
        self.net = build_net(config.net, agents, obs_dim, low.shape[-1], head_gain=config.head_gain)
        self.statistics = RunningStatistics((obs_dim,))
        self.register_buffer("box_center", (low + high) / 2)
        self.register_buffer("box_half", (high - low) / 2)
        missing = None if available is None or bool(available.all()) else ~available
        self.register_buffer("missing", missing, persistent=False)
        log_std = torch.full((low.shape[-1],), config.std).log()
        if config.learn_std:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    @classmethod
    def of(cls, config: ActorConfig, env: MultiAgentVectorEnv) -> "Actor":
        """Build for an env; `to` its device is left to the caller."""
        return cls(
            config,
            env.num_agents,
            env.obs_dim,
            env.action_low,
            env.action_high,
            discrete=env.discrete_actions,
            available=env.action_mask,
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Return the mean action before squashing, in half boxes; or the logits of choices."""
        out: Tensor = self.net(self.statistics(obs) if self.config.normalise_obs else obs)
        if self.discrete and self.missing is not None:
            out = out.masked_fill(self.missing, -1e9)
        return out

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return the action for unit noise of the action's shape; None acts deterministically.

        A choice passes the gradient of its probabilities (`straight_choice`).
        """
        out = self(obs)
        if self.discrete:
            if noise is None:
                return one_hot_of(out)
            return straight_choice(out + _gumbel(noise), out.softmax(-1))
        if noise is not None:
            out = out + self.log_std.exp() * noise
        if self.config.squash:
            out = torch.tanh(out)
        return self.box_center + self.box_half * out

    def log_prob(self, obs: Tensor, action: Tensor, memory: NoiseMemory | None = None) -> Tensor:
        """Return the log-density of an action that `act` gave, in half boxes.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), not clamped to the box and not squashed.
            memory: of correlated noise, what was known of it before it was drawn; None for white.

        Returns:
            (*batch, agent).
        """
        out = self(obs)
        if self.discrete:
            return (action * out.log_softmax(-1)).sum(-1)
        std = self.log_std.exp()
        log_std = self.log_std
        if memory is not None:
            out = out + std * memory.carried
            log_std = log_std + memory.fresh.log()
        unit = (self.in_half_boxes(action) - out) / log_std.exp()
        density = -(0.5 * unit.square() + log_std + 0.5 * math.log(2 * math.pi))
        return self._of_free_features(density)

    def entropy(self, obs: Tensor) -> Tensor:
        """Return the entropy (*batch, agent), of a Gaussian in half boxes."""
        if self.discrete:
            log = self(obs).log_softmax(-1)
            return -(log.exp() * log).sum(-1)
        constant = 0.5 * (1 + math.log(2 * math.pi))
        return self._of_free_features(self.log_std + constant).expand(obs.shape[:-1])

    def _of_free_features(self, values: Tensor) -> Tensor:
        """Sum over action features, without those whose box is a point: noise never moved them."""
        return torch.where(self.box_half > 0, values, 0.0).sum(-1)

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


def _gumbel(noise: Tensor) -> Tensor:
    """Turn unit normal noise into standard Gumbel noise: the largest sum is a softmax sample."""
    return -torch.log(-torch.special.log_ndtr(noise))  # Φ(noise) is uniform; exact in both tails
