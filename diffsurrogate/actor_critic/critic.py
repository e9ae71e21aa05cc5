"""Critics: one value per agent, with a target network."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsurrogate.config import require_range
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_net, build_recurrent_net
from diffsurrogate.nets.config import JointNetConfig, NetConfig
from diffsurrogate.nets.normaliser import RunningStatistics, mark_padding
from diffsurrogate.nets.recurrent import Recurrence


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """A value function of the agents' observations."""

    net: NetConfig = field(default_factory=JointNetConfig)
    head_gain: float = 0.0
    """Orthogonal gain of the last layer; 0: all values are 0 before training."""
    target_decay: float = 0.2
    """α of the target update φ' ← αφ' + (1-α)φ, in [0, 1) (arXiv:2204.07137, Algorithm 1). Only
    SHAC uses the target network."""
    normalise_obs: bool = True
    """Normalise observations by their running statistics, frozen during a window."""
    ensemble: int = 1
    """Independent value functions, of SHAC only. Policies follow their mean; the smallest is the
    value at the end of targets, against overestimation (SAPO, arXiv:2412.12089)."""

    def __post_init__(self) -> None:
        require_range(self, "head_gain", low=0.0)
        require_range(self, "ensemble", low=1.0)
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"target_decay is {self.target_decay}; it must be in [0, 1)")


class Critic(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to values `(*batch, agent)`.

    A recurrent one (`gru_size` of its network) maps whole windows, by `unroll` and `values_around`.
    """

    def __init__(self, config: CriticConfig, agents: int, obs_dim: int) -> None:
        """Build the network and its target network."""
        super().__init__()
        self.config = config
        self.statistics = RunningStatistics((agents, obs_dim), shared=config.net.same_for_all)
        build = build_recurrent_net if config.net.gru_size > 0 else build_net
        nets = [
            build(config.net, agents, obs_dim, 1, head_gain=config.head_gain)
            for _ in range(config.ensemble)
        ]
        self.net, self.more_nets = nets[0], nn.ModuleList(nets[1:])
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.more_target_nets = copy.deepcopy(self.more_nets).requires_grad_(False)

    @classmethod
    def of(cls, config: CriticConfig, env: MultiAgentVectorEnv) -> "Critic":
        """Build for an env; the caller moves it to a device."""
        critic = cls(config, env.num_agents, env.obs_dim)
        mark_padding(critic, env.observation_mask)
        return critic

    def forward(self, obs: Tensor) -> Tensor:
        """Return the online network's value.

        Raises:
            UsageError: the critic is recurrent.
        """
        if self.config.net.gru_size > 0:
            raise UsageError(
                "this critic is recurrent, so an observation alone has no value; use unroll or "
                "values_around"
            )
        out: Tensor = self.net(self._inputs(obs)).squeeze(-1)
        return out

    def unroll(self, obs: Tensor, past: Recurrence) -> tuple[Tensor, Tensor]:
        """Return values along a window and the hidden states after each step.

        Args:
            obs: (time, *batch, agent, obs_dim).
            past: hidden states before the window, and its episode starts.

        Returns:
            (time, *batch, agent) and (time, *batch, agent, gru_size).
        """
        out, hidden = self.net(self._inputs(obs), past)
        return out.squeeze(-1), hidden

    def values_around(
        self, obs: Tensor, next_obs: Tensor, past: Recurrence
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values of `obs` and `next_obs`, and the hidden states.

        `next_obs`, from before any reset, is evaluated with the hidden state after its step, even
        if the episode ended there.

        Args:
            obs: (time, env, agent, obs_dim).
            next_obs: (time, env, agent, obs_dim).
            past: hidden states before the window, and its episode starts.

        Returns:
            values of `obs` and of `next_obs`, both (time, env, agent), and hidden states after each
            step (time, env, agent, gru_size).
        """
        value, hidden = self.unroll(obs, past)
        no_start = torch.zeros_like(past.episode_start).unsqueeze(0)
        after = Recurrence(hidden=hidden, episode_start=no_start)
        next_value, _ = self.unroll(next_obs.unsqueeze(0), after)
        return value, next_value.squeeze(0), hidden

    def each(self, obs: Tensor) -> Tensor:
        """Return the values of all online networks, (ensemble, *batch, agent)."""
        inputs = self._inputs(obs)
        return torch.stack([net(inputs).squeeze(-1) for net in (self.net, *self.more_nets)])

    def target(self, obs: Tensor) -> Tensor:
        """Return the target networks' mean value, differentiable in the input only."""
        return self._each_target(obs).mean(0)

    def low_target(self, obs: Tensor) -> Tensor:
        """Return the smallest of the target networks' values."""
        return self._each_target(obs).amin(0)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network towards the online network."""
        targets = (self.target_net, *self.more_target_nets)
        for target, net in zip(targets, (self.net, *self.more_nets), strict=True):
            for slow, fast in zip(target.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.target_decay)

    def _each_target(self, obs: Tensor) -> Tensor:
        inputs = self._inputs(obs)
        nets = (self.target_net, *self.more_target_nets)
        return torch.stack([net(inputs).squeeze(-1) for net in nets])

    def _inputs(self, obs: Tensor) -> Tensor:
        return self.statistics(obs) if self.config.normalise_obs else obs
