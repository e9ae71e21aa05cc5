"""Attention between agents: what the Transformers over agents are made of."""

from torch import Tensor, nn


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
