"""Running statistics: those of all batches, frozen until the snapshot."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsurrogate.nets.normaliser import MANY, RunningStatistics, mark_padding

ENVS, AGENTS, OBS = 7, 3, 5
GENERATOR = torch.Generator().manual_seed(0)
POINTS = 2 * torch.rand(997, AGENTS, OBS, generator=GENERATOR) - 1
UNIT = 3**-0.5  # the deviation of a uniform number in [-1, 1]


def measured(batch, **options):
    """Statistics of a batch `(row, *shape)`, frozen."""
    statistics = RunningStatistics(tuple(batch.shape[1:]), **options)
    statistics.update(batch)
    statistics.snapshot()
    return statistics


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_statistics_are_numpys_whatever_the_split(sizes, seed):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    rows = rng.normal(100.0, 3.0, (total, AGENTS, OBS)).astype(np.float32)
    statistics = RunningStatistics((AGENTS, OBS))
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        statistics.update(torch.as_tensor(batch))
    statistics.snapshot()
    if total > 1:  # one row alone has no deviation
        np.testing.assert_allclose(statistics.mean.numpy(), rows.mean(0, dtype=float), rtol=1e-5)
        np.testing.assert_allclose(statistics.std.numpy(), rows.std(0, dtype=float), rtol=1e-4)


def test_the_snapshot_stands_still_until_it_is_taken():
    statistics, x = RunningStatistics((AGENTS, OBS)), POINTS[:ENVS]
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


@pytest.mark.parametrize(
    "unit",
    [
        lambda x: x,
        lambda x: 1e-6 * x,
        lambda x: 1e-10 * x,
        lambda x: 1e6 * x - 1e7,
        lambda x: x + 10_000,
        lambda x: (100 * x).round() + 10_000,
        lambda x: (10 * x).round() - 1000,
    ],
    ids=[
        *["x", "1e-6 x", "1e-10 x", "1e6 x - 1e7", "x + 10000"],
        *["round(100 x) + 10000", "round(10 x) - 1000"],
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_unit_and_offset_of_a_measurement_are_forgotten(unit, shared):
    seen = POINTS.clone()
    seen[:, 1] = unit(seen[:, 1])  # one agent's, also among those that share weights
    out = measured(seen, shared=shared)(seen)
    torch.testing.assert_close(out, POINTS / UNIT, atol=0.2, rtol=0)


def test_flags_and_categories_are_scaled_to_1_and_lose_only_an_offset():
    """A flag, a count up to 4, one down to -8, a category from 10,000 on, a constant."""
    flag, count = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 2.0, 0.0])
    batch = torch.stack([flag, count, -2 * count, 10_000 + count, 0 * count + 7], dim=-1)
    out = measured(batch)(batch)
    expected = torch.stack([flag, count / 4, -count / 4, count / 4, 0 * count], dim=-1)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("values", "measurement"), [(MANY // 2, False), (4 * MANY, True)])
def test_many_whole_numbers_are_measurements(values, measurement):
    batch = torch.arange(values, dtype=torch.float32).repeat(3)[:, None]
    assert measured(batch).measurement.item() is measurement


def test_what_is_not_finite_is_no_number_of_its_own():
    batch = torch.arange(MANY, dtype=torch.float32).repeat(3)[:, None]
    batch[5:8] = torch.tensor([[torch.nan], [torch.inf], [-torch.inf]])
    assert not measured(batch).measurement.item()


def test_one_fraction_makes_a_feature_a_measurement_for_ever():
    statistics = RunningStatistics((1,))
    for rows in ([[0.0], [4.0]], [[0.5], [3.5]], [[2.0], [2.0]]):
        statistics.update(torch.tensor(rows))
    statistics.snapshot()
    assert statistics.mean.item() == 2.0
    assert statistics.std.item() == pytest.approx(((4 + 4 + 2.25 + 2.25) / 6) ** 0.5)


def test_a_small_change_of_a_large_number_is_seen():
    """Metres of a map: 1,000,000 and one more or less, of which float32 tells sixteenths."""
    metres = 1e6 + POINTS
    torch.testing.assert_close(measured(metres)(metres), POINTS / UNIT, atol=0.2, rtol=0)


def test_rounding_is_not_seen():
    """What should be 0, and the last digit of a large number."""
    digits = torch.where(POINTS > 0, 1e6, 1e6 + 0.0625)
    for rounding in (1e-16 * POINTS, digits):
        assert measured(rounding)(rounding).abs().max() < 1e-6


@pytest.mark.parametrize("value", [0.3, -12_345.678, 0.0])
def test_a_constant_is_0_and_stays_small(value):
    statistics = measured(torch.full((997, 1), value))
    assert statistics(torch.tensor([[value]])).item() == 0
    assert abs(statistics(torch.tensor([[1.001 * value + 0.001]])).item()) < 0.01


@pytest.mark.parametrize("size", [1.0, 0.3])
def test_a_rare_value_is_no_spike(size):
    rare = torch.zeros(9973, 1)
    rare[5000] = size
    assert measured(rare)(rare).max() <= 10


def test_agents_are_normalised_by_themselves():
    """One sees 1000 x, one x + 100: what they see of x is the same."""
    seen = POINTS * torch.tensor([1.0, 1000.0, 1.0])[:, None]
    seen = seen + torch.tensor([0.0, 0.0, 100.0])[:, None]
    out = measured(seen)(seen)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(AGENTS, OBS))


def test_equal_observations_of_agents_that_share_weights_stay_equal():
    """Also where they differ by a constant that tells them apart, such as a fixed goal."""
    goals = torch.tensor([0.25, 0.5, 0.75])
    seen = POINTS.clone()
    seen[..., 1] = 1.5 * seen[..., 1] + torch.tensor([0.0, 1.0, 2.0])
    seen[..., 0] = goals
    statistics = measured(seen, shared=True)
    same = torch.ones(AGENTS, OBS)
    assert torch.equal(statistics(same), statistics(same)[:1].expand(AGENTS, OBS))
    assert statistics(seen)[0, :, 0].unique().numel() == AGENTS


def test_agents_that_part_join_again_once_they_see_alike():
    statistics = measured(POINTS + 100 * torch.arange(AGENTS)[:, None], shared=True)
    assert statistics.apart.all()
    for _ in range(3):
        statistics.update(100 * POINTS + 100)
    statistics.snapshot()
    assert not statistics.apart.any()


def test_padding_the_dead_and_nan_do_not_count():
    seen = POINTS + 100
    present = torch.ones(AGENTS, OBS, dtype=torch.bool)
    present[0, 4] = False
    alive = torch.ones(len(seen), AGENTS, dtype=torch.bool)
    alive[300:, 1] = False
    seen = torch.where(present & alive[..., None], seen, 0.0)
    seen[3, 2, 2] = torch.nan
    for shared in (False, True):
        statistics = RunningStatistics((AGENTS, OBS), shared=shared)
        mark_padding(statistics, present)
        statistics.update(seen, alive)
        statistics.snapshot()
        used = statistics.mean[present]
        torch.testing.assert_close(used, torch.full_like(used, 100.0), atol=0.2, rtol=0)
        out = statistics(seen)
        assert not out[:, 0, 4].any() and not out[300:, 1].any()
        assert out[300:, 0, :4].std().item() == pytest.approx(1, abs=0.1)


def test_statistics_carry_the_gradient_of_their_input():
    statistics = measured(torch.tensor([[0.5], [4.5]]))
    x = torch.ones(1, requires_grad=True)
    (grad,) = torch.autograd.grad(statistics(x), x)
    assert grad.item() == 0.5
