"""Self-attention over agents."""

from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.nets.config import _ACTIVATIONS, TransformerConfig
from diffsurrogate.nets.mlp import append_agent_id, mlp


class AgentBlock(nn.Module):
    """Pre-norm attention over agents and a feed-forward layer of twice the width."""

    def __init__(self, width: int, heads: int, activation: type[nn.Module]) -> None:
        """Build for (*batch, agent, width); `heads` divides the width."""
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            activation(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (*batch, agent, width)."""
        # (*batch, agent, 3 * width) -> (3, *batch, head, agent, width / heads)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        weight = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.merge((weight @ value).transpose(-3, -2).flatten(-2))
        out: Tensor = x + self.feedforward(x)
        return out


class TransformerNet(nn.Module):
    """Self-attention over agents, permutation-equivariant unless `agent_id` (SHAC++, B.2)."""

    def __init__(self, config: TransformerConfig, agents: int, in_dim: int, out_dim: int) -> None:
        """Build; the number of agents is fixed only if `agent_id`."""
        super().__init__()
        self.agents = agents if config.agent_id and agents > 1 else 0
        width = config.hidden[0]
        self.embed = mlp((in_dim + self.agents, *config.embed, width), config)
        self.embed.append(nn.LayerNorm(width))
        self.blocks = nn.ModuleList(
            AgentBlock(width, config.heads, _ACTIVATIONS[config.activation]) for _ in config.hidden
        )
        self.head = nn.Linear(width, out_dim)

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features, attending to all."""
        hidden = self.embed(append_agent_id(x) if self.agents > 0 else x)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.head(hidden)
        return out
