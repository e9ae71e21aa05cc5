"""Critics: one value per agent, with a target network."""

import copy
from collections.abc import Sequence
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
    """Independent value functions, of SHAC only and without a GRU. Policies follow their mean; the
    smallest is the value at the end of targets, against overestimation (SAPO, arXiv:2412.12089)."""

    def __post_init__(self) -> None:
        require_range(self, "head_gain", low=0.0)
        require_range(self, "ensemble", low=1.0)
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"target_decay is {self.target_decay}; it must be in [0, 1)")
        if self.ensemble > 1 and self.net.gru_size > 0:
            raise UsageError(
                f"ensemble is {self.ensemble}, but net.gru_size is {self.net.gru_size}; a "
                "recurrent critic is a single one: set ensemble to 1 or gru_size to 0"
            )


class Critic(nn.Module):
    """Maps obs `(*batch, agent, obs_dim)` to values `(*batch, agent)`.

    A recurrent one (`gru_size` of its network) maps whole windows (time, env, agent, obs_dim), and
    needs to know what came before them.
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

    def forward(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return the online network's value.

        Raises:
            UsageError: the critic is recurrent, and there is no `past`.
        """
        return self._of_all((self.net,), obs, past).squeeze(0)

    def values_around(
        self, obs: Tensor, next_obs: Tensor, past: Recurrence | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the online network's values of `obs` and of the observations that follow.

        Args:
            obs: (time, env, agent, obs_dim).
            next_obs: (time, env, agent, obs_dim), from before any reset.
            past: of a recurrent critic; see `target_after`.

        Returns:
            two of (time, env, agent).
        """
        if past is None:
            return self(obs), self(next_obs)
        value, hidden = self.net(self._inputs(obs), past)
        following = self(next_obs.unsqueeze(0), Recurrence.after(hidden))
        return value.squeeze(-1), following.squeeze(0)

    def hidden_along(self, obs: Tensor, past: Recurrence) -> Tensor:
        """Return the online network's hidden states after each step of a window.

        Args:
            obs: (time, env, agent, obs_dim).
            past: hidden states before the window, and its episode starts.

        Returns:
            (time, env, agent, gru_size).
        """
        hidden: Tensor = self.net(self._inputs(obs), past)[1]
        return hidden

    def each(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return the values of all online networks, (ensemble, *batch, agent).

        Here and below, a recurrent critic needs `past`, and `obs` (time, env, agent, obs_dim).
        """
        return self._of_all((self.net, *self.more_nets), obs, past)

    def target(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return the target networks' mean value, differentiable in the input only."""
        return self._of_all(self._targets, obs, past).mean(0)

    def target_after(self, obs: Tensor, next_obs: Tensor, past: Recurrence | None = None) -> Tensor:
        """Return `target` of the observations that follow `obs`, from before any reset.

        Args:
            obs: (*batch, agent, obs_dim).
            next_obs: (*any, *batch, agent, obs_dim), whatever may follow.
            past: of a recurrent critic, which sees `next_obs` with its hidden state after `obs`,
                even if the episode ended there.
        """
        return self._after(self._targets, obs, next_obs, past).mean(0)

    def low_target_after(
        self, obs: Tensor, next_obs: Tensor, past: Recurrence | None = None
    ) -> Tensor:
        """Return the smallest of the target networks' values after `obs`; as `target_after`."""
        return self._after(self._targets, obs, next_obs, past).amin(0)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network towards the online network."""
        for target, net in zip(self._targets, (self.net, *self.more_nets), strict=True):
            for slow, fast in zip(target.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.target_decay)

    @property
    def _targets(self) -> tuple[nn.Module, ...]:
        return (self.target_net, *self.more_target_nets)

    def _after(
        self, nets: Sequence[nn.Module], obs: Tensor, next_obs: Tensor, past: Recurrence | None
    ) -> Tensor:
        """Return the values of what follows `obs`, (ensemble, *any, *batch, agent)."""
        if past is None:
            return self._of_all(nets, next_obs, None)
        hidden = nets[0](self._inputs(obs), past)[1].expand(*next_obs.shape[:-1], -1)
        return self._of_all(nets, next_obs.unsqueeze(0), Recurrence.after(hidden)).squeeze(1)

    def _of_all(self, nets: Sequence[nn.Module], obs: Tensor, past: Recurrence | None) -> Tensor:
        """Return the values of networks, (ensemble, *batch, agent)."""
        inputs = self._inputs(obs)
        if self.config.net.gru_size == 0:
            return torch.stack([net(inputs).squeeze(-1) for net in nets])
        if past is None:
            raise UsageError(
                "this critic is recurrent, so an observation alone has no value; give what came "
                "before it"
            )
        return torch.stack([net(inputs, past)[0].squeeze(-1) for net in nets])

    def _inputs(self, obs: Tensor) -> Tensor:
        return self.statistics(obs) if self.config.normalise_obs else obs
