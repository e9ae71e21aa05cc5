r"""Autoregressive policies, of agents that act in turn: $\pi(a|o) = \prod_i \pi_i(a_i|o_i,a_{<i})$.

Every agent has a separate network over its own observation and all agents' actions, with later
actions masked to zero. Equation 3 of BPPO (Li et al., AAAI 2024), after Fu et al. (ICML 2022).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, gumbel
from diffsurrogate.actor_critic.recurrent import RecurrentActor
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.functional.discrete_actions import one_hot_argmax, straight_through_one_hot
from diffsurrogate.nets.mlp import mlp
from diffsurrogate.nets.recurrent import Recurrence


def build_actor(config: ActorConfig, env: MultiAgentVectorEnv) -> Actor:
    """Build the configured actor for an env; the caller moves it to a device."""
    if config.net.gru_size > 0:
        return RecurrentActor.of(config, env)
    kind = Actor if config.order == "simultaneous" else AutoregressiveActor
    return kind.of(config, env)


class ConditionedNet(nn.Module):
    """One agent's network, over its own features and earlier agents' actions.

    With projection the head reads LayerNorm(hidden(o) + MLP([actions, acted])), where `acted` is
    constant under a fixed order; raw, it reads [hidden(o), actions]. Weights start orthogonal, with
    gain √2 before the head, so that earlier actions matter from the start.
    """

    def __init__(self, config: ActorConfig, in_dim: int, agents: int, out_dim: int) -> None:
        """Build for `agents` agents with `out_dim` action features each."""
        super().__init__()
        net, width = config.net, config.net.hidden[-1]
        self.conditioning = config.conditioning
        self.hidden = mlp((in_dim, *net.hidden, 1), net)[:-1]
        if self.conditioning == "projection":
            self.project = mlp((agents * (out_dim + 1), width, width), net)
            self.norm = nn.LayerNorm(width)
        raw = agents * out_dim if self.conditioning == "raw" else 0
        self.head = nn.Linear(width + raw, out_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                gain = config.head_gain if layer is self.head else 2**0.5
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, actions: Tensor, acted: Tensor) -> Tensor:
        """Return (*batch, out_dim).

        Args:
            x: (*batch, in_dim), the agent's features.
            actions: (*batch, agent, out_dim), one-hot or normalised.
            acted: (agent,) 1 for agents that acted before, else 0.
        """
        hidden = self.hidden(x)
        if self.conditioning != "none":
            seen = (actions * acted.unsqueeze(-1)).flatten(-2)
            if self.conditioning == "raw":
                hidden = torch.cat([hidden, seen], -1)
            else:
                flags = acted.expand(*seen.shape[:-1], -1)
                hidden = self.norm(hidden + self.project(torch.cat([seen, flags], -1)))
        out: Tensor = self.head(hidden)
        return out


class AutoregressiveActor(Actor):
    """An `Actor` whose agents act one after another, in an order that may change between windows.

    `act` runs agent by agent; `log_prob` and `entropy` of given actions are batched over all
    leading axes.

    Example:
        >>> import torch
        >>> from diffsurrogate import ActorConfig, NetConfig, make
        >>> net = SeparateNetConfig()
        >>> actor = build_actor(ActorConfig(net=net, order="listed"), make("games/climbing"))
        >>> actor.act(torch.ones(5, 2, 1), None).shape
        torch.Size([5, 2, 3])
    """

    agent_order: Tensor
    """(agent,) int64: indices of the agents in the order they act."""
    net: nn.ModuleList
    _in_turn = True

    def __init__(
        self,
        config: ActorConfig,
        agents: int,
        obs_dim: int,
        low: Tensor,
        high: Tensor,
        **roles: Any,
    ) -> None:
        """Build; arguments as for `Actor`.

        Raises:
            UsageError: the configured order is simultaneous, or as `Actor`.
        """
        super().__init__(config, agents, obs_dim, low, high, **roles)
        order = list(range(agents))
        if config.order == "reversed":
            order.reverse()
        self.register_buffer("agent_order", torch.tensor(order))
        # one parameter per agent, so that updating one agent leaves the others unchanged
        self.own_log_std: nn.ParameterList | None = None
        if config.learn_std:
            self.log_std.requires_grad_(False)
            self.own_log_std = nn.ParameterList(
                torch.zeros(1, low.shape[-1]) for _ in range(agents)
            )

    def freeze_normaliser(self, generator: torch.Generator) -> None:
        """Freeze the observation statistics; draw the order if it is random."""
        super().freeze_normaliser(generator)
        if self.config.order == "random":
            order = torch.randperm(len(self.agent_order), generator=generator)
            self.agent_order = order.to(self.agent_order.device)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return the action for unit noise of the action's shape; None acts deterministically.

        A discrete action passes the gradient of its Gumbel-softmax at temperature 1
        (arXiv:1611.01144).
        """
        return self._chain(obs, noise)[0]

    def act_in_order(self, obs: Tensor, order: Sequence[int]) -> Tensor:
        """Return the deterministic action of agents that act in this order, by their indices."""
        return self._chain(obs, None, order)[0]

    def log_std_of(self, agents: slice = slice(None)) -> Tensor:
        """Return log standard deviations, (agent, act_dim) if they are learned per agent."""
        if self.own_log_std is None:
            return self.log_std
        return self.log_std + torch.cat(list(self.own_log_std)[agents])

    # --- one agent at a time: (*batch, act_dim) ---------------------------------------------------

    def seen(self, action: Tensor, agents: slice = slice(None)) -> Tensor:
        """Return actions as networks see them: one-hot if discrete, else normalised, padding 0."""
        if self.discrete:
            return action
        return self.normalise_action(action, agents).where(self.action_space.free[agents], 0.0)

    def output(self, agent: int, obs: Tensor, seen: Tensor) -> Tensor:
        """Return one agent's means or logits (*batch, 1, act_dim), given the actions before it.

        Args:
            agent: its index.
            obs: (*batch, agent, obs_dim) of all agents.
            seen: (*batch, agent, act_dim) from `seen`; later agents' actions are masked.
        """
        return self._output(agent, self._inputs(obs), seen, self._acted_before(agent))

    def log_prob_of(self, agent: int, out: Tensor, action: Tensor) -> Tensor:
        """Return the log-density (*batch,) of one agent's action in the joint one.

        Args:
            agent: its index.
            out: its `output`.
            action: (*batch, agent, act_dim) of all agents, as sampled.
        """
        own = slice(agent, agent + 1)
        return self._log_density(out, action[..., own, :], None, own).squeeze(-1)

    def entropy_of(self, agent: int, out: Tensor) -> Tensor:
        """Return the entropy (*batch,) of one agent's action, given its `output`."""
        return self._entropy_of(out, slice(agent, agent + 1)).squeeze(-1)

    def reparameterised(self, agent: int, out: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        r"""Return the reparameterised action $g(\theta, \epsilon)$ of BPPO, (*batch, act_dim).

        $a - sg(\mu) + \mu$ for normalised actions, or the discrete action with the gradient of its
        Gumbel-softmax.

        Args:
            agent: its index.
            out: its `output`.
            action: (*batch, agent, act_dim) of all agents, as sampled.
            noise: (*batch, agent, act_dim) of all agents, the unit normal noise of `action`.
        """
        own = slice(agent, agent + 1)
        seen, relaxed = self.seen(action[..., own, :], own), out
        if self.discrete:
            relaxed = (out + gumbel(noise[..., own, :])).softmax(-1)
        return (seen.detach() + (relaxed - relaxed.detach())).squeeze(-2)

    # ----------------------------------------------------------------------------------------------

    def _network(self, agents: int, in_dim: int, out_dim: int) -> nn.Module:
        return nn.ModuleList(
            ConditionedNet(self.config, in_dim, agents, out_dim) for _ in range(agents)
        )

    def _output_of(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        return self._chain(obs, None)[1]  # given deterministic actions

    def _output_given(self, obs: Tensor, action: Tensor | None, past: Recurrence | None) -> Tensor:
        if action is None:
            return self._output_of(obs)
        inputs, seen = self._inputs(obs), self.seen(action)
        each = [
            self._output(agent, inputs, seen, self._acted_before(agent))
            for agent in range(len(self.net))
        ]
        return torch.cat(each, -2)

    def _acted_before(self, agent: int) -> Tensor:
        """Return (agent,) 1 for agents that act before `agent`, else 0."""
        place = torch.empty_like(self.agent_order)
        place[self.agent_order] = torch.arange(len(place), device=place.device)
        return (place < place[agent]).to(self.action_space.scale.dtype)

    def _output(self, agent: int, inputs: Tensor, seen: Tensor, acted: Tensor) -> Tensor:
        own = slice(agent, agent + 1)
        out = self.net[agent](inputs[..., agent, :], seen, acted).unsqueeze(-2)
        return self._masked(out, inputs, own)

    def _chain(
        self, obs: Tensor, noise: Tensor | None, order: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let the agents act in their order, or another; return actions and outputs."""
        inputs, agents = self._inputs(obs), len(self.net)
        nothing = inputs.new_zeros(*inputs.shape[:-2], 1, self.action_space.scale.shape[-1])
        seen, actions, outs = [nothing] * agents, [nothing] * agents, [nothing] * agents
        acted = torch.zeros(agents, dtype=nothing.dtype, device=nothing.device)
        for agent in self.agent_order.tolist() if order is None else order:
            own = slice(agent, agent + 1)
            outs[agent] = out = self._output(agent, inputs, torch.cat(seen, -2), acted)
            drawn = None if noise is None else noise[..., own, :]
            if not self.discrete:
                actions[agent] = self._in_box(out, drawn, own)
            elif drawn is None:
                actions[agent] = one_hot_argmax(out)
            else:
                noisy = out + gumbel(drawn)
                actions[agent] = straight_through_one_hot(noisy, noisy.softmax(-1))
            seen[agent] = self.seen(actions[agent], own)
            acted = acted.clone()
            acted[agent] = 1.0
        return torch.cat(actions, -2), torch.cat(outs, -2)
