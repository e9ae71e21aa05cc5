r"""The action world model's attention: each agent's past, and all agents at the same step.

Tokens form a grid of steps and agents. Token $(i, j)$, at step $i$ of agent $j$, attends to

- $(k, j)$ for $k \le i$: the same agent so far;
- $(i, m)$ for every agent $m$: all agents at this step

(SHAC++: Bertolotti et al., ECAI 2025): to `i + agent` of the `time * agent` keys. These split into
a *strictly* past block, one causal attention per agent, and a *peer* block, one full attention per
step, which contains the token itself. Scores of both blocks share one softmax, so the result equals
dense masked attention up to rounding, at a cost of `time * agent * (time + agent)` scores instead
of `(time * agent) ** 2`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def structured_attention(
    query: Float[Tensor, "batch time agent head dim"],
    key: Float[Tensor, "batch time agent head dim"],
    value: Float[Tensor, "batch time agent head dim"],
) -> Float[Tensor, "batch time agent head dim"]:
    r"""Attend from every token to its agent's past and to all agents at its step, in one softmax.

    $o_{ij} = \sum_{(k,m) \in S_{ij}} \mathrm{softmax}_S(q_{ij} \cdot k_{km} / \sqrt d)\, v_{km}$
    with $S_{ij} = \{(k, j): k < i\} \cup \{(i, m): \text{all } m\}$.

    With one agent this is causal attention, computed by torch's fused kernel.
    """
    time, agents = query.shape[1:3]
    if agents == 1:
        query, key, value = (x.squeeze(2).transpose(1, 2) for x in (query, key, value))
        out = scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2).unsqueeze(2)
    query = query * query.shape[-1] ** -0.5
    past = torch.matmul(_by_agent(query), _by_agent(key).mT)
    not_past = torch.ones(time, time, dtype=torch.bool, device=query.device).triu()
    past = past.masked_fill(not_past, -torch.inf)
    peers = torch.matmul(_by_step(query), _by_step(key).mT)
    # Both as (batch, agent, head, time, seen), so that one softmax runs over past and peers.
    weight = torch.cat([past, peers.permute(0, 3, 2, 1, 4)], dim=-1).softmax(dim=-1)
    past, peers = weight.split([time, agents], dim=-1)
    from_past = torch.matmul(past, _by_agent(value)).permute(0, 3, 1, 2, 4)
    from_peers = torch.matmul(peers.permute(0, 3, 2, 1, 4), _by_step(value)).transpose(2, 3)
    return from_past + from_peers


def structured_attention_step(
    query: Float[Tensor, "batch agent head dim"],
    key: Float[Tensor, "batch agent head dim"],
    value: Float[Tensor, "batch agent head dim"],
    past_key: Float[Tensor, "batch agent head past dim"],
    past_value: Float[Tensor, "batch agent head past dim"],
    valid: Bool[Tensor, "batch past"],
) -> Float[Tensor, "batch agent head dim"]:
    """Compute one step of `structured_attention` from the keys and values of earlier steps.

    Args:
        query: of this step.
        key: of this step; not yet in `past_key`.
        value: of this step; not yet in `past_value`.
        past_key: of earlier steps, possibly none. The step axis is last but one, as matmul needs
            it: copying the past would take half the time.
        past_value: of earlier steps.
        valid: earlier steps of the current trajectory; False for those before a restart.
    """
    agents, slots = past_key.shape[1], past_key.shape[3]
    query = query * query.shape[-1] ** -0.5
    past = torch.matmul(query[..., None, :], past_key.mT).squeeze(-2)
    past = past.masked_fill(~valid[:, None, None], -torch.inf)
    peers = torch.einsum("bahd,bmhd->bahm", query, key)
    weight = torch.cat([past, peers], dim=-1).softmax(dim=-1)
    past, peers = weight.split([slots, agents], dim=-1)
    from_past = torch.matmul(past[..., None, :], past_value).squeeze(-2)
    return from_past + torch.einsum("bahm,bmhd->bahd", peers, value)


class StructuredLayer(nn.Module):
    """A post-norm Transformer layer with ReLU (Vaswani et al., 2017) over steps and agents.

    `forward` takes all steps at once, `step` one at a time, with the same result.
    """

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        """Make a layer.

        Args:
            width: features of a token; a multiple of `heads`.
            heads: attention heads.
            feedforward: hidden width of the MLP.
        """
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.up = nn.Linear(width, feedforward)
        self.down = nn.Linear(feedforward, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, token: Float[Tensor, "batch time agent width"]
    ) -> Float[Tensor, "batch time agent width"]:
        """Attend from every token to its agent's past and to all agents at its step."""
        return self._finish(token, structured_attention(*self._project(token)))

    def step(
        self,
        token: Float[Tensor, "batch agent width"],
        past_key: Float[Tensor, "batch agent head past dim"],
        past_value: Float[Tensor, "batch agent head past dim"],
        valid: Bool[Tensor, "batch past"],
    ) -> tuple[
        Float[Tensor, "batch agent width"],
        Float[Tensor, "batch agent head dim"],
        Float[Tensor, "batch agent head dim"],
    ]:
        """Return one step's tokens, and their keys and values for later steps."""
        query, key, value = self._project(token)
        seen = structured_attention_step(query, key, value, past_key, past_value, valid)
        return self._finish(token, seen), key, value

    def _project(self, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.qkv(token).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def _finish(self, token: Tensor, attended: Tensor) -> Tensor:
        token = self.norm1(token + self.out(attended.flatten(-2)))
        return self.norm2(token + self.down(self.up(token).relu()))


def _by_agent(
    x: Float[Tensor, "batch time agent head dim"],
) -> Float[Tensor, "batch agent head time dim"]:
    """Move the time axis for matmul: one attention per agent and head."""
    return x.permute(0, 2, 3, 1, 4)


def _by_step(
    x: Float[Tensor, "batch time agent head dim"],
) -> Float[Tensor, "batch time head agent dim"]:
    """Move the agent axis for matmul: one attention per step and head."""
    return x.transpose(2, 3)
