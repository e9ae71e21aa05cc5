"""Binned caches: what is kept, where, and how it is drawn."""

import io
import itertools
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffsurrogate.data.replay import StratifiedReplay
from diffsurrogate.errors import UsageError

KEYS = st.integers(-20, 20).map(float)
BATCHES = st.lists(st.lists(KEYS, max_size=13), min_size=1, max_size=7)
SIZES = {"capacity": st.integers(1, 5), "bins": st.integers(1, 4)}


def batch(keys: list[float], first: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Items know their own key and a running number."""
    key = torch.tensor(keys)
    number = torch.arange(first, first + len(keys))
    return key, {"number": number, "pair": torch.stack([key, -key], dim=-1)}


def filled(capacity: int, bins: int, *batches: list[float]) -> StratifiedReplay:
    cache, count = StratifiedReplay(capacity, bins), 0
    for keys in batches:
        cache.add(*batch(keys, count))
        count += len(keys)
    return cache


def numbers(cache: StratifiedReplay) -> list[list[int]]:
    """The running numbers in each bin, sorted."""
    rings = (ring.items.get("number", torch.empty(0)) for ring in cache.rings)
    return [sorted(ring.tolist()) for ring in rings]


def bin_of(key: float, low: float, high: float, bins: int) -> int:
    if high == low:
        return 0
    return min(int((key - low) / (high - low) * bins + 1e-6), bins - 1)


@settings(max_examples=100, deadline=None)
@given(batches=BATCHES, **SIZES)
def test_whatever_comes_items_fit_stay_paired_and_lie_in_their_bin(batches, capacity, bins):
    cache, count, seen = StratifiedReplay(capacity, bins), 0, []
    for keys in batches:
        cache.add(*batch(keys, count))
        count, seen = count + len(keys), seen + keys
        assert max(cache.occupancy) <= capacity
        assert sum(cache.occupancy) == len(cache) <= len(seen)
        for index, ring in enumerate(cache.rings):
            for row, key in enumerate(ring.items.get("_key", torch.empty(0)).tolist()):
                assert ring.items["pair"][row].tolist() == [key, -key]
                assert seen[int(ring.items["number"][row])] == key
                assert bin_of(key, min(seen), max(seen), bins) == index
        kept = [*itertools.chain(*numbers(cache))]
        assert len(set(kept)) == len(kept)
        wanted: dict[int, int] = {}  # the newest of this batch in each bin
        for number, key in enumerate(keys, count - len(keys)):
            wanted[bin_of(key, min(seen), max(seen), bins)] = number
        assert all(newest in numbers(cache)[index] for index, newest in wanted.items())


@settings(max_examples=100, deadline=None)
@given(batches=BATCHES, **SIZES)
def test_in_a_known_range_every_bin_is_a_queue(batches, capacity, bins):
    """The newest `capacity` of each bin, however they are spread over batches."""
    batches = [[-20.0], [20.0], *batches]
    queues = [deque(maxlen=capacity) for _ in range(bins)]
    for number, key in enumerate(itertools.chain(*batches)):
        queues[bin_of(key, -20.0, 20.0, bins)].append(number)
    got = numbers(filled(capacity, bins, *batches))
    assert got == [sorted(queue) for queue in queues]


def test_of_merging_bins_the_newest_items_stay():
    """Items 0 to 5 with keys 0 1 | 1 1 | 0 0 in two bins of 2; then 9 puts all of them in one."""
    cache = filled(2, 2, [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [9.0])
    assert numbers(cache) == [[4, 5], [6]]


def test_a_growing_range_redistributes_the_bins():
    """Bins of [0, 4]: below 2, from 2. Of [0, 8]: below 4, from 4."""
    cache = filled(5, 2, [0.0, 1.0, 2.0, 4.0])
    assert numbers(cache) == [[0, 1], [2, 3]]
    cache.add(*batch([8.0], 4))
    assert numbers(cache) == [[0, 1, 2], [3, 4]]


def drawn_keys(cache: StratifiedReplay, size: int, balance: float) -> Tensor:
    batch = cache.sample(size, torch.Generator().manual_seed(0), balance)
    assert {name: len(rows) for name, rows in batch.items()} == {"number": size, "pair": size}
    assert torch.equal(batch["pair"][:, 0], -batch["pair"][:, 1])
    return batch["pair"][:, 0]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (1.0, [1 / 3, 1 / 3, 1 / 3]),
        (0.0, [0.90, 0.09, 0.01]),
        (0.5, [0.5 / 3 + 0.45, 0.5 / 3 + 0.045, 0.5 / 3 + 0.005]),
    ],
)
def test_draws_are_spread_over_occupied_bins_as_asked(balance, shares):
    """90, 9 and 1 items in 3 of 7 bins."""
    cache = filled(100, 7, [0.0] * 90 + [3.0] * 9 + [6.0])
    keys = drawn_keys(cache, 6000, balance)
    got = [(keys == key).float().mean().item() for key in (0.0, 3.0, 6.0)]
    assert got == pytest.approx(shares, abs=0.02)


def test_every_item_of_a_bin_is_equally_likely():
    cache = filled(5, 1, [0.0] * 7)
    sample = cache.sample(5000, torch.Generator().manual_seed(0))["number"]
    assert torch.bincount(sample, minlength=7)[2:].float().tolist() == pytest.approx(
        [1000] * 5, abs=120
    )


def test_an_empty_cache_cannot_be_drawn_from():
    cache = StratifiedReplay(3, 2)
    cache.add(*batch([]))
    assert (len(cache), cache.occupancy) == (0, [0, 0])
    with pytest.raises(UsageError, match="empty"):
        cache.sample(1, torch.Generator())


@pytest.mark.parametrize(("capacity", "bins"), [(0, 1), (1, 0)])
def test_a_cache_that_holds_nothing_is_refused(capacity, bins):
    with pytest.raises(UsageError, match="at least 1"):
        StratifiedReplay(capacity, bins)


def test_two_caches_do_not_share_bins():
    """In the reference code one range served all caches, and rewards fell into a single bin."""
    rewards, values = filled(5, 2, [0.0, 1.0]), filled(5, 2, [0.0, 1000.0])
    rewards.add(*batch([0.9], 2))
    assert rewards.occupancy == [1, 2]
    assert values.occupancy == [1, 1]


def test_kept_items_are_copies_without_a_graph():
    key, items = torch.zeros(3), {"x": torch.zeros(3, requires_grad=True)}
    cache = StratifiedReplay(5, 1)
    cache.add(key, items)
    with torch.no_grad():
        items["x"].fill_(7.0)
    kept = cache.sample(3, torch.Generator())["x"]
    assert not kept.any()
    assert not kept.requires_grad


@pytest.mark.parametrize("bins", [1, 3])
def test_a_saved_cache_goes_on_as_if_unbroken(bins):
    first = filled(3, bins, [0.0, 5.0, 1.0, 2.0], [0.5] * 4)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = StratifiedReplay(3, bins)
    second.load_state_dict(torch.load(file, weights_only=True))
    for cache in (first, second):
        cache.add(*batch([0.0, 9.0, 4.0], 8))
    assert numbers(first) == numbers(second)
    draws = [cache.sample(13, torch.Generator().manual_seed(0)) for cache in (first, second)]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])


def test_a_loaded_state_is_not_written_to():
    first, second = filled(2, 1, [0.0, 0.0]), StratifiedReplay(2, 1)
    second.load_state_dict(first.state_dict())
    second.add(*batch([0.0], 7))
    assert numbers(first) == [[0, 1]]


def test_a_state_with_other_bins_is_refused():
    with pytest.raises(UsageError, match="3 bins, this one 2"):
        StratifiedReplay(5, 2).load_state_dict(StratifiedReplay(5, 3).state_dict())
