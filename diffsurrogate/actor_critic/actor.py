"""Policies with continuous or discrete actions, and their noise for a whole window."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.exploration import NoiseState
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import available_actions, check_columns, without
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import one_hot_argmax, straight_through_one_hot
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import DiCoConfig, JointNetConfig, NetConfig, SeparateNetConfig
from diffsurrogate.nets.dico import DiCoNet
from diffsurrogate.nets.normaliser import RunningStatistics, mark_padding
from diffsurrogate.nets.recurrent import Recurrence

_ALL = slice(None)
_LOG_STD = (-5.0, 2.0)
"""Least and most of log standard deviations that depend on the state."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
"""Of the Gauss-Hermite quadrature over unit normal noise."""


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    r"""A Gaussian policy $a = \mu(o) + \sigma \epsilon$ over normalised actions in [-1, 1].

    With discrete actions (`MultiAgentVectorEnv.discrete_actions`) the policy is a softmax, and
    `std`, `learn_std` and `squash` do not apply.
    """

    net: NetConfig = field(default_factory=JointNetConfig)
    std: float = 1.0
    """Initial standard deviation of normalised actions, usually 0.3 to 1."""
    learn_std: bool = False
    """Learn one log standard deviation per action feature, independent of the observation."""
    squash: bool = False
    """Apply tanh to the sample (SHAC), instead of clamping with a penalty (SHAC++)."""
    state_dependent_std: bool = False
    """The network also gives the log standard deviation of every action feature, around that of
    `std` and in [-5, 2] (SAC, arXiv:1812.05905; SAPO, arXiv:2412.12089)."""
    normalise_obs: bool = True
    """Normalise observations by their running statistics, frozen during a window."""
    head_gain: float = 0.01
    """Orthogonal gain of the last layer; small: initial mean actions are near the middle."""
    order: Literal["simultaneous", "listed", "reversed", "random"] = "simultaneous"
    """simultaneous: all agents act at once. Otherwise they act one after another, each with a
    separate network that may see earlier actions (`AutoregressiveActor`). listed: in the env's
    order. reversed: in the opposite order. random: in an order drawn for every window; predictions
    use the last one drawn."""
    conditioning: Literal["projection", "raw", "none"] = "projection"
    """How an agent's network sees earlier actions. projection: through an MLP, added to the hidden
    layer. raw: appended to the hidden layer. none: not at all."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "std", "head_gain", low=0.0)
        if self.state_dependent_std:
            self._check_state_dependent_std()
        if self.order != "simultaneous" and not isinstance(self.net, SeparateNetConfig):
            raise UsageError(
                f"order={self.order!r} gives every agent a separate network, but "
                f"net is a {self.net.architecture} one; use a SeparateNetConfig"
            )
        if self.order != "simultaneous" and self.net.centralised:
            raise UsageError(
                f"net.centralised is for simultaneous actions, but order is {self.order!r}; "
                "leave it False"
            )
        if self.order != "simultaneous" and self.net.gru_size > 0:
            raise UsageError(
                f"net.gru_size is {self.net.gru_size}, but policies of agents that act one after "
                f"another (order={self.order!r}) are not recurrent; leave it at 0"
            )
        if self.order == "simultaneous" and self.conditioning != "projection":
            raise UsageError(
                f"conditioning={self.conditioning!r} is for agents that act one after another, but "
                'order is "simultaneous"; leave it at "projection", or choose another order'
            )

    def _check_state_dependent_std(self) -> None:
        if self.learn_std:
            raise UsageError(
                "learn_std learns standard deviations that do not depend on the state, "
                "state_dependent_std ones that do; leave one of them False"
            )
        if self.order != "simultaneous" or isinstance(self.net, DiCoConfig):
            raise UsageError(
                "state_dependent_std is for agents that act at once by a network other than dico, "
                f"but net is a {self.net.architecture} one, and order is {self.order!r}; set it "
                "to False"
            )


class Actor(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to actions `(*batch, agent, act_dim)`.

    Discrete actions that an observation's action mask rules out have probability zero and pass no
    gradient. The network sees the mask, but not the global state.
    """

    log_std: Tensor
    flags: Tensor | None
    """(obs_dim,) bool: features of the action mask, which pass no gradient."""
    _in_turn: ClassVar[bool] = False
    """Whether agents act one after another."""
    _remembers: ClassVar[bool] = False
    """Whether the policy is recurrent."""

    def __init__(
        self,
        config: ActorConfig,
        agents: int,
        obs_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        discrete: bool = False,
        valid: Tensor | None = None,
        action_mask_slice: slice | None = None,
        global_state_slice: slice | None = None,
    ) -> None:
        """Build for actions in [`low`, `high`], each (agent, act_dim).

        Args:
            config: network and standard deviation.
            agents: number of agents.
            obs_dim: features of one agent's observation.
            low: lower bounds of actions.
            high: upper bounds.
            discrete: actions are discrete, one-hot over act_dim.
            valid: (agent, act_dim) bool, False where an agent's action is padding; None if none is.
            action_mask_slice: slice of obs with the action mask; None without.
            global_state_slice: slice of obs that policies do not see; None without.

        Raises:
            UsageError: a slice is invalid, dico is used with discrete actions, or the order or
                recurrence needs another class.
        """
        super().__init__()
        for option, fits in (
            (f"order={config.order!r}", (config.order != "simultaneous") == self._in_turn),
            (f"net.gru_size={config.net.gru_size}", (config.net.gru_size > 0) == self._remembers),
        ):
            if not fits:
                raise UsageError(
                    f"{option} is not for {type(self).__name__}; build the policy by "
                    "build_actor(config, env)"
                )
        if discrete and isinstance(config.net, DiCoConfig):
            raise UsageError(
                "net is a DiCoConfig, which needs continuous actions, but actions here are "
                "discrete; use hyper-mlp, hyper-linear, separate, or shared with agent_id"
            )
        self.config = config
        self.discrete = discrete
        sizes = {"obs_dim": obs_dim, "act_dim": low.shape[-1]}
        check_columns(action_mask_slice, global_state_slice, **sizes, discrete=discrete)
        self.action_mask_slice, self.global_state_slice = action_mask_slice, global_state_slice
        flags = None
        if action_mask_slice is not None:
            flags = torch.zeros(obs_dim, dtype=torch.bool, device=low.device)
            flags[action_mask_slice] = True
        self.register_buffer("flags", flags, persistent=False)
        seen = len(without(torch.zeros(obs_dim), global_state_slice))
        self.state_dependent_std = config.state_dependent_std and not discrete
        outputs = low.shape[-1] * (2 if self.state_dependent_std else 1)
        self.net = self._network(agents, seen, outputs)
        self.statistics = RunningStatistics((agents, obs_dim), shared=config.net.same_for_all)
        self.action_space = ActionSpace(low, high, discrete=discrete, valid=valid)
        if self.action_space.valid is not None and isinstance(self.net, DiCoNet):
            self.net.compare_only(self.action_space.free.all(0))
        log_std = torch.full((low.shape[-1],), config.std).log()
        if config.learn_std:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    @classmethod
    def of(cls, config: ActorConfig, env: MultiAgentVectorEnv) -> "Actor":
        """Build for an env; the caller moves it to a device."""
        actor = cls(
            config,
            env.num_agents,
            env.obs_dim,
            env.action_low,
            env.action_high,
            discrete=env.discrete_actions,
            valid=env.valid_action_dims,
            action_mask_slice=env.action_mask_slice,
            global_state_slice=env.global_state_slice,
        )
        mark_padding(actor, env.observation_mask)
        return actor

    def forward(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return the normalised mean action before squashing, or logits of discrete actions.

        Here and below, a recurrent policy needs `past`, and `obs` (time, env, agent, obs_dim).
        """
        out = self._output_of(obs, past)
        return out if self.discrete else self._gaussian(out)[0]

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return the action for unit noise of the action's shape; None acts deterministically.

        A discrete action passes the gradient of its probabilities (`straight_through_one_hot`).
        """
        return self._sample(self._output_of(obs), noise)

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations before squashing, of continuous actions.

        Both (*batch, agent, act_dim), or what broadcasts to it.
        """
        return self._gaussian(self._output_of(obs))

    def log_prob(
        self,
        obs: Tensor,
        action: Tensor,
        noise_state: NoiseState | None = None,
        past: Recurrence | None = None,
    ) -> Tensor:
        """Return the log-density of an action from `act`, with respect to normalised actions.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), neither clamped nor squashed.
            noise_state: conditional distribution of correlated noise; None for white noise.
            past: of a recurrent policy.

        Returns:
            (*batch, agent).
        """
        return self._log_density(self._output_given(obs, action, past), action, noise_state)

    def entropy(
        self, obs: Tensor, action: Tensor | None = None, past: Recurrence | None = None
    ) -> Tensor:
        """Return the entropy (*batch, agent) over normalised actions, in nats.

        That of a squashed Gaussian is of what tanh leaves, by quadrature.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim), used only if agents act one after another; None for
                the deterministic one.
            past: of a recurrent policy.
        """
        fixed = not (self.discrete or self.config.squash or self.state_dependent_std)
        return self._entropy_of(obs if fixed else self._output_given(obs, action, past))

    def evaluate_actions(
        self,
        obs: Tensor,
        action: Tensor,
        noise_state: NoiseState | None = None,
        past: Recurrence | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return `log_prob` and `entropy` by one pass through the network."""
        out = self._output_given(obs, action, past)
        return self._log_density(out, action, noise_state), self._entropy_of(out)

    def exploring(
        self, env: MultiAgentVectorEnv, noise: Tensor, hidden: Tensor | None = None
    ) -> "NoisyPolicy":
        """Return the policy with the noise of the env's next window (time, env, agent, act_dim).

        Args:
            env: on which it acts.
            noise: unit normal.
            hidden: (env, agent, gru_size) of a recurrent policy.
        """
        return NoisyPolicy(self, noise)

    def replaying(self, noise: Tensor, past: Recurrence | None = None) -> "NoisyPolicy":
        """Return the policy that acted in a recorded window, to be run again on it.

        Args:
            noise: (time, env, agent, act_dim), that of the window.
            past: of a recurrent policy.
        """
        return NoisyPolicy(self, noise)

    def normalise_action(self, action: Tensor, agents: slice = _ALL) -> Tensor:
        """Map actions from their bounds to [-1, 1]."""
        return self.action_space.normalise(action, agents)

    def log_std_of(self, agents: slice = _ALL) -> Tensor:
        """Return log standard deviations that broadcast over (*batch, agent, act_dim)."""
        return self.log_std

    def freeze_normaliser(self, generator: torch.Generator) -> None:
        """Freeze the observation statistics for a window.

        Args:
            generator: on the CPU, for subclasses that draw an order per window.
        """
        self.statistics.snapshot()

    def update_normaliser(self, obs: Tensor, alive_mask: Tensor | None = None) -> None:
        """Update the observation statistics, after the policy has learned from a window.

        They take effect in the next window. A `DiCoNet` measures its diversity on the same
        observations, of agents that are alive, normalised by the new statistics.

        Args:
            obs: (*batch, agent, obs_dim).
            alive_mask: (*batch, agent) bool, the agents to count; None for all.
        """
        self.statistics.update(obs, alive_mask)
        if isinstance(self.net, DiCoNet):
            self.statistics.snapshot()
            self.net.measure(self._inputs(obs), alive_mask)

    # --- for some of the agents, which `out` and other arguments have on their agent axis ---------

    def _network(self, agents: int, in_dim: int, out_dim: int) -> nn.Module:
        """Return the network from inputs (*batch, agent, in_dim) to (*batch, agent, out_dim)."""
        return build_net(self.config.net, agents, in_dim, out_dim, head_gain=self.config.head_gain)

    def _output_of(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return logits, or means and, if they depend on the state, log standard deviations."""
        inputs = self._inputs(obs)
        return self._masked(self.net(inputs), inputs)

    def _output_given(self, obs: Tensor, action: Tensor | None, past: Recurrence | None) -> Tensor:
        """Return `_output_of`; of agents that act one after another, given the actions before."""
        return self._output_of(obs, past)

    def _gaussian(self, out: Tensor, agents: slice = _ALL) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations of the network's output."""
        if not self.state_dependent_std:
            return out, self.log_std_of(agents)
        mean, log_std = out.chunk(2, -1)
        return mean, (self.log_std + log_std).clamp(*_LOG_STD)

    def _inputs(self, obs: Tensor) -> Tensor:
        """Return the network's input: normalised but for the mask, without the global state."""
        seen = self.statistics(obs) if self.config.normalise_obs else obs
        if self.flags is not None:
            seen = torch.where(self.flags, obs.detach(), seen)
        hidden = self.global_state_slice
        return seen if hidden is None else without(seen, hidden)

    def _masked(self, out: Tensor, inputs: Tensor, agents: slice = _ALL) -> Tensor:
        """Mask the logits of padded or unavailable actions; `inputs` are of all agents."""
        valid = self.action_space.valid
        if self.discrete and valid is not None:
            out = out.masked_fill(~valid[agents], -1e9)
        if self.action_mask_slice is not None:
            columns = self.action_mask_slice
            if (
                self.global_state_slice is not None
                and self.global_state_slice.start < columns.start
            ):
                removed = self.global_state_slice.stop - self.global_state_slice.start
                columns = slice(columns.start - removed, columns.stop - removed)
            out = out.masked_fill(~available_actions(inputs[..., agents, :], columns), -1e9)
        return out

    def _sample(self, out: Tensor, noise: Tensor | None) -> Tensor:
        if not self.discrete:
            return self._in_box(out, noise)
        if noise is None:
            return one_hot_argmax(out)
        return straight_through_one_hot(out + gumbel(noise), out.softmax(-1))

    def _in_box(self, out: Tensor, noise: Tensor | None, agents: slice = _ALL) -> Tensor:
        out, log_std = self._gaussian(out, agents)
        if noise is not None:
            out = out + log_std.exp() * noise
        if self.config.squash:
            out = torch.tanh(out)
        return self.action_space.denormalise(out, agents)

    def _log_density(
        self, out: Tensor, action: Tensor, noise_state: NoiseState | None, agents: slice = _ALL
    ) -> Tensor:
        if self.discrete:
            return (action * out.log_softmax(-1)).sum(-1)
        out, log_std = self._gaussian(out, agents)
        if noise_state is not None:
            out = out + log_std.exp() * noise_state.carried[..., agents, :]
            log_std = log_std + noise_state.fresh.log()
        unit = (self.normalise_action(action, agents) - out) / log_std.exp()
        density = -(0.5 * unit.square() + log_std + 0.5 * math.log(2 * math.pi))
        return self._sum_of_free(density, agents)

    def _entropy_of(self, out: Tensor, agents: slice = _ALL) -> Tensor:
        if self.discrete:
            log = out.log_softmax(-1)
            return -(log.exp() * log).sum(-1)
        mean, log_std = self._gaussian(out, agents)
        each = log_std + 0.5 * (1 + math.log(2 * math.pi))
        if self.config.squash:
            each = each + _mean_log_slope(mean, log_std.exp())
        return self._sum_of_free(each, agents).expand(out.shape[:-1])

    def _sum_of_free(self, values: Tensor, agents: slice = _ALL) -> Tensor:
        """Sum over action features that are no padding."""
        return torch.where(self.action_space.free[agents], values, 0.0).sum(-1)


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
        """Recompute the action at `step`; with a slice, `obs` has a leading time axis."""
        return self.actor.act(obs, self.noise[step])

    def detach(self) -> None:
        """Cut the graph of what a recurrent policy remembers."""


def _mean_log_slope(mean: Tensor, std: Tensor) -> Tensor:
    r"""Return $E[\log(1 - \tanh^2 u)]$ of $u \sim N(mean, std^2)$: what tanh takes from entropy."""
    total = torch.zeros(())
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        u = mean + std * float(node)
        slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
        total = total.to(u) + float(weight) / math.sqrt(2 * math.pi) * slope
    return total


def gumbel(noise: Tensor) -> Tensor:
    """Map unit normal to standard Gumbel noise: argmax(logits + it) is a softmax sample."""
    return -torch.log(-torch.special.log_ndtr(noise))  # Φ(noise) is uniform; exact in both tails
