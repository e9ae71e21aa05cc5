"""Networks over agents with memory: a GRU that forgets where an episode begins.

Hidden states are (*batch, agent, memory). One pass runs through a whole window, so that training
sees how what was remembered came about; stepping with carried states gives the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffsurrogate.nets.mlp import AgentLinear, reset_orthogonal

BuildLinear = Callable[[int, int], nn.Linear | AgentLinear]
"""Makes a linear layer from features in and out: shared by the agents, or with weights of each."""


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """What a network with memory knew before some steps, and where it is to forget."""

    hidden: Tensor
    """(env, agent, memory) after the step before the first."""
    episode_start: Tensor
    """(time, env) bool: the observation is the first of its episode."""

    def of_envs(self, chosen: Tensor) -> "Recurrence":
        """Return that of some envs."""
        return Recurrence(hidden=self.hidden[chosen], episode_start=self.episode_start[:, chosen])


class AgentGRU(nn.Module):
    r"""A gated recurrent unit for every agent, as wide as what it is given (arXiv:1406.1078).

    $h' = (1 - z) \tanh(W x + r U h) + z h$, biases left out, with gates $r$ and $z$ in (0, 1).
    """

    def __init__(self, linear: BuildLinear, width: int) -> None:
        """Build; every matrix starts orthogonal, with biases zero (arXiv:2103.01955)."""
        super().__init__()
        self.width = width
        self.inputs, self.carry = linear(width, 3 * width), linear(width, 3 * width)
        for part in (self.inputs, self.carry):
            reset_orthogonal(part.weight.unflatten(-2, (3, width)).flatten(0, -3), 1.0)
            nn.init.zeros_(part.bias)

    def forward(
        self,
        x: Float[Tensor, "time *b agent width"],
        hidden: Float[Tensor, "*b agent width"],
        episode_start: Bool[Tensor, "time *b"],
    ) -> Float[Tensor, "time *b agent width"]:
        """Return the hidden state after each step; it is zero before the first of an episode."""
        states = []
        for gates, begin in zip(
            self.inputs(x).unbind(), episode_start[..., None, None], strict=True
        ):
            # no product: across a reset neither a gradient passes nor what is not finite
            hidden = torch.where(begin, 0.0, hidden)
            reset_update, fresh = gates.split((2 * self.width, self.width), -1)
            carried, kept = self.carry(hidden).split((2 * self.width, self.width), -1)
            reset, update = (reset_update + carried).sigmoid().chunk(2, -1)
            hidden = torch.lerp(torch.tanh(fresh + reset * kept), hidden, update)
            states.append(hidden)
        return torch.stack(states)


class RecurrentNet(nn.Module):
    """An encoder, a memory, and a network that reads the memory: Linear, GRU, any `AgentNet`."""

    def __init__(self, encoder: nn.Module, memory: AgentGRU, net: nn.Module) -> None:
        """Join the three; all map (*batch, agent, features)."""
        super().__init__()
        self.encoder, self.memory, self.net = encoder, memory, net

    def forward(
        self, x: Float[Tensor, "time *b agent i"], past: Recurrence
    ) -> tuple[Float[Tensor, "time *b agent o"], Float[Tensor, "time *b agent memory"]]:
        """Return outputs and the hidden state after each step."""
        hidden = self.memory(self.encoder(x), past.hidden, past.episode_start)
        out: Tensor = self.net(hidden)
        return out, hidden
