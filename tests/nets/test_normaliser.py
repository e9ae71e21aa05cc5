"""Running statistics: those of all batches, frozen until the snapshot."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsurrogate.nets.normaliser import RunningStatistics

ENVS, AGENTS, OBS = 7, 3, 5


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_statistics_are_numpys_whatever_the_split(sizes, seed):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    rows = rng.normal(100.0, 3.0, (total, OBS)).astype(np.float32)
    statistics = RunningStatistics((OBS,))
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        statistics.update(torch.as_tensor(batch))
    statistics.snapshot()
    mean = rows.mean(0, dtype=np.float64) if total else np.zeros(OBS)
    std = rows.std(0, dtype=np.float64) if total else np.ones(OBS)
    np.testing.assert_allclose(statistics.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(statistics.std.numpy(), np.maximum(std, 0.01), rtol=1e-4)


def test_every_leading_axis_is_pooled():
    batch = torch.randn(11, ENVS, AGENTS, OBS)
    statistics = RunningStatistics((OBS,))
    statistics.update(batch)
    statistics.snapshot()
    out = statistics(batch)
    torch.testing.assert_close(out.mean((0, 1, 2)), torch.zeros(OBS), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(out.std((0, 1, 2), correction=0), torch.ones(OBS))


def test_scalars_have_scalar_statistics():
    statistics = RunningStatistics(())
    statistics.update(torch.tensor([[0.5, 2.5], [0.5, 2.5]]))
    statistics.snapshot()
    assert (statistics.mean.item(), statistics.std.item()) == (1.5, 1.0)


def test_the_snapshot_stands_still_until_it_is_taken():
    statistics, x = RunningStatistics((OBS,)), torch.randn(ENVS, OBS)
    assert torch.equal(statistics(x), x)
    statistics.snapshot()  # of nothing
    statistics.update(x + 10)
    assert torch.equal(statistics(x), x)
    statistics.snapshot()
    before = statistics(x)
    assert before.mean() < -5
    statistics.update(x - 20)
    assert torch.equal(statistics(x), before)
    statistics.snapshot()
    assert not torch.equal(statistics(x), before)


def test_whole_numbers_are_scaled_to_1_but_not_shifted():
    """A flag, a count up to 4, a count down to -8, a real number."""
    flag, count = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 2.0, 0.0])
    batch = torch.stack([flag, count, -2 * count, count + 0.5], dim=-1)
    statistics = RunningStatistics((4,))
    statistics.update(batch)
    statistics.snapshot()
    out = statistics(batch)
    assert torch.equal(out[:, :3], torch.stack([flag, count / 4, -count / 4], dim=-1))
    assert out[:, 3].mean().abs() < 1e-6


def test_one_fraction_makes_an_entry_a_number_for_ever():
    statistics = RunningStatistics((1,))
    for rows in ([[0.0], [4.0]], [[0.5], [3.5]], [[2.0], [2.0]]):
        statistics.update(torch.tensor(rows))
    statistics.snapshot()
    assert statistics.mean.item() == 2.0
    assert statistics.std.item() == pytest.approx(((4 + 4 + 2.25 + 2.25) / 6) ** 0.5)


@pytest.mark.parametrize("floor", [0.01, 0.5])
def test_an_entry_that_does_not_move_is_not_blown_up(floor):
    statistics = RunningStatistics((1,), floor=floor)
    statistics.update(torch.full((ENVS, 1), 0.3))
    statistics.snapshot()
    assert statistics.std.item() == pytest.approx(floor)
    assert statistics(torch.tensor([[0.3 + floor]])).item() == pytest.approx(1.0, abs=1e-4)


def test_statistics_carry_the_gradient_of_their_input():
    statistics = RunningStatistics((1,))
    statistics.update(torch.tensor([[0.5], [4.5]]))
    statistics.snapshot()
    x = torch.ones(1, requires_grad=True)
    (grad,) = torch.autograd.grad(statistics(x), x)
    assert grad.item() == 0.5
