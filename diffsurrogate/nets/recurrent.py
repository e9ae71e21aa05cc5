"""Recurrent multi-agent networks: a GRU whose hidden state is reset at episode starts.

Hidden states are (*batch, agent, gru_size). One call processes a whole window, so that training
backpropagates through time; stepping with carried hidden states gives the same result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffsurrogate.nets.mlp import AgentLinear, reset_orthogonal

BuildLinear = Callable[[int, int], nn.Linear | AgentLinear]
"""Makes a linear layer from its input and output sizes, shared by or separate for the agents."""


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """The hidden state before a sequence of steps, and where it is reset."""

    hidden: Tensor
    """(env, agent, gru_size) before the first step."""
    episode_start: Tensor
    """(time, env) bool: the observation is the first of its episode."""

    @classmethod
    def along(cls, hidden: Tensor, ended: Tensor) -> "Recurrence":
        """Return that of consecutive steps, from the hidden state before each.

        Args:
            hidden: (time, env, agent, gru_size), zero where an episode starts; only the first
                counts, so that gradients pass through the others.
            ended: (time, env) bool: the episode ended with this step.
        """
        starts = torch.zeros_like(ended)
        starts[1:] = ended[:-1]
        return cls(hidden=hidden[0], episode_start=starts)

    @classmethod
    def after(cls, hidden: Tensor) -> "Recurrence":
        """Return that of a single step from hidden states (*batch, agent, gru_size)."""
        starts = torch.zeros(1, *hidden.shape[:-2], dtype=torch.bool, device=hidden.device)
        return cls(hidden=hidden, episode_start=starts)

    def before_each(self, hidden: Tensor) -> Tensor:
        """Return the hidden state before each step, from those after: (time, env, agent, size)."""
        before = torch.cat([self.hidden.unsqueeze(0), hidden[:-1]])
        return torch.where(self.episode_start[..., None, None], 0.0, before)

    def of_envs(self, chosen: Tensor) -> "Recurrence":
        """Select some envs."""
        return Recurrence(hidden=self.hidden[chosen], episode_start=self.episode_start[:, chosen])


class AgentGRU(nn.Module):
    r"""A gated recurrent unit for every agent, with hidden states of its input's size.

    $h' = (1 - z) \tanh(W x + r U h) + z h$ without biases, with gates $r$ and $z$ in (0, 1)
    (arXiv:1406.1078).
    """

    def __init__(self, linear: BuildLinear, width: int) -> None:
        """Build; every matrix starts orthogonal, biases zero (arXiv:2103.01955)."""
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
        """Return the hidden state after each step; it is zero at every episode start."""
        states = []
        for gates, begin in zip(
            self.inputs(x).unbind(), episode_start[..., None, None], strict=True
        ):
            # not a product: neither gradients nor NaNs may cross a reset
            hidden = torch.where(begin, 0.0, hidden)
            reset_update, fresh = gates.split((2 * self.width, self.width), -1)
            carried, kept = self.carry(hidden).split((2 * self.width, self.width), -1)
            reset, update = (reset_update + carried).sigmoid().chunk(2, -1)
            hidden = torch.lerp(torch.tanh(fresh + reset * kept), hidden, update)
            states.append(hidden)
        return torch.stack(states)


class RecurrentNet(nn.Module):
    """An encoder, a GRU, and a network over its hidden state (any `AgentNet`)."""

    def __init__(self, encoder: nn.Module, memory: AgentGRU, net: nn.Module) -> None:
        """Chain the three; all map (*batch, agent, feature)."""
        super().__init__()
        self.encoder, self.memory, self.net = encoder, memory, net

    def forward(
        self, x: Float[Tensor, "time *b agent i"], past: Recurrence
    ) -> tuple[Float[Tensor, "time *b agent o"], Float[Tensor, "time *b agent gru_size"]]:
        """Return outputs and the hidden state after each step."""
        hidden = self.memory(self.encoder(x), past.hidden, past.episode_start)
        out: Tensor = self.net(hidden)
        return out, hidden
