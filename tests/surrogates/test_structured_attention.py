"""Structured attention is dense attention under the action world model's mask."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from diffsurrogate.surrogates.structured_attention import (
    structured_attention,
    structured_attention_step,
)


def dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Write the mask down token by token, as the paper draws it, and attend under it."""
    _, time, agents, _, dim = query.shape
    grid = [(i, j) for i in range(time) for j in range(agents)]
    seen = torch.tensor([[(k <= i and m == j) or k == i for k, m in grid] for i, j in grid])
    query, key, value = (x.flatten(1, 2).transpose(1, 2) for x in (query, key, value))
    score = (query @ key.mT / dim**0.5).masked_fill(~seen, -torch.inf)
    return (score.softmax(dim=-1) @ value).transpose(1, 2).unflatten(1, (time, agents))


def tokens(time: int, agents: int, *, batch: int = 2, heads: int = 2, dim: int = 5) -> Tensor:
    """Query, key and value: (3, batch, time, agent, head, dim)."""
    generator = torch.Generator().manual_seed(1000 * time + agents)
    return torch.randn(3, batch, time, agents, heads, dim, generator=generator)


def step(qkv: Tensor, i: int, valid: Tensor) -> Tensor:
    """Attend at step i only, with the steps before as its past."""
    past_key, past_value = (x[:, :i].permute(0, 2, 3, 1, 4) for x in qkv[1:])
    query, key, value = qkv[:, :, i]
    return structured_attention_step(query, key, value, past_key, past_value, valid)


def assert_structured_is_dense(qkv: Tensor) -> None:
    cotangent = torch.linspace(-1, 1, qkv[0].numel()).view(qkv[0].shape)
    results = []
    for attention in (structured_attention, dense_attention):
        leaf = qkv.clone().requires_grad_()
        out = attention(*leaf)
        results.append((out, *torch.autograd.grad(out, leaf, cotangent)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(time=st.integers(1, 32), agents=st.integers(1, 10), heads=st.integers(1, 3))
def test_structured_is_dense_at_any_size(time: int, agents: int, heads: int) -> None:
    assert_structured_is_dense(tokens(time, agents, batch=1, heads=heads))


@pytest.mark.parametrize("agents", [1, 3])
def test_large_scores_do_not_overflow(agents: int) -> None:
    qkv = tokens(7, agents)
    qkv[:2] *= 100
    assert structured_attention(*qkv).isfinite().all()
    torch.testing.assert_close(structured_attention(*qkv), dense_attention(*qkv))


def test_gradcheck_of_one_step() -> None:
    valid = torch.tensor([[True, True], [False, True]])
    assert gradcheck(partial(step, i=2, valid=valid), tokens(3, 2, dim=2).double().requires_grad_())


@pytest.mark.parametrize("agents", [1, 3])
def test_one_step_at_a_time_is_all_at_once(agents: int) -> None:
    qkv = tokens(7, agents, batch=5)
    steps = [step(qkv, i, torch.ones(5, i, dtype=torch.bool)) for i in range(7)]
    batch = structured_attention(*qkv)
    torch.testing.assert_close(torch.stack(steps, dim=1), batch, atol=1e-5, rtol=0)


def test_a_step_does_not_see_invalid_slots() -> None:
    qkv = tokens(5, 3)
    out = step(qkv, 4, torch.tensor([[False, False, True, True], [True, True, True, True]]))
    shorter = structured_attention(*qkv[:, :1, 2:])[:, -1]
    whole = structured_attention(*qkv[:, 1:])[:, -1]
    torch.testing.assert_close(out, torch.cat([shorter, whole]), atol=1e-5, rtol=0)
