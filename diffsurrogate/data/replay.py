"""Stratified replay: a ring buffer per bin, so that rare rewards survive (SHAC++, section 3)."""

import torch
from torch import Tensor

from diffsurrogate.errors import UsageError

_KEY, _AGE = "_key", "_age"  # beside the items' own names


class StratifiedReplay:
    """Keeps the newest items in each of several bins of a key, and samples across bins.

    The paper's cache. Every bin is a ring buffer: a new item replaces the oldest *of its bin*, and
    items of one batch never replace each other unless the batch alone overfills a bin (then the
    last stay). The bins are equal parts of the range of keys seen so far, but for keys outside a
    range of ordinary ones, which have a bin below and one above; when the range grows, items are
    redistributed.
    """

    def __init__(self, capacity: int, bins: int, device: torch.device | str = "cpu") -> None:
        """Make an empty buffer.

        Args:
            capacity: items per bin.
            bins: number of bins; 1 is a plain ring buffer.
            device: of the stored items.
        """
        if capacity < 1 or bins < 1:
            raise UsageError(f"capacity {capacity} and bins {bins} must be at least 1")
        self.capacity = capacity
        self.bins = bins
        self.device = torch.device(device)
        self.low, self.high = float("inf"), float("-inf")
        self.added = 0
        self.within = (float("-inf"), float("inf"))
        self.rings = [_Ring(capacity) for _ in range(bins)]
        self.tails = [_Ring(capacity) for _ in range(2)]

    def __len__(self) -> int:
        """Return the number of items."""
        return sum(len(ring) for ring in self._all)

    @property
    def occupancy(self) -> list[int]:
        """Items in each bin."""
        return [len(ring) for ring in self.rings]

    @torch.no_grad()
    def add(
        self,
        key: Tensor,
        items: dict[str, Tensor],
        within: tuple[float, float] = (float("-inf"), float("inf")),
    ) -> None:
        """Add a batch of items.

        Args:
            key: (item,) that determines the bin.
            items: tensors with a leading item axis.
            within: the range of ordinary keys.
        """
        if len(key) == 0:
            return
        key = key.detach().to(self.device, torch.float32)
        ordinary = key[(key >= within[0]) & (key <= within[1])]
        low, high = max(self.low, within[0]), min(self.high, within[1])
        if len(ordinary):
            low, high = min(low, float(ordinary.min())), max(high, float(ordinary.max()))
        grown = (low, high) != (self.low, self.high)
        self.low, self.high, self.within = low, high, within
        items = {name: value.detach().to(self.device) for name, value in items.items()}
        if grown and self.bins > 1 and len(self) > 0:
            self._redistribute()
        age = torch.arange(self.added, self.added + len(key), device=self.device)
        self.added += len(key)
        self._insert({_KEY: key, _AGE: age, **items})

    def sample(
        self, size: int, generator: torch.Generator, balance: float = 1.0
    ) -> dict[str, Tensor]:
        """Draw items with replacement.

        Args:
            size: number of items.
            generator: source of randomness.
            balance: share of the batch drawn evenly from the occupied bins, in [0, 1]; the rest is
                uniform over items.

        Raises:
            UsageError: the buffer is empty.
        """
        occupied = [ring for ring in self._all if len(ring) > 0]
        if not occupied:
            raise UsageError("the replay buffer is empty; add items before sampling")
        if len(occupied) == 1:
            balance = 0.0
        counts = torch.tensor([float(len(ring)) for ring in occupied])
        share = balance / len(occupied) + (1 - balance) * counts / counts.sum()
        quota = torch.multinomial(share, size, replacement=True, generator=generator)
        drawn = torch.bincount(quota, minlength=len(occupied)).tolist()
        parts = []
        for ring, count in zip(occupied, drawn, strict=True):
            index = torch.randint(len(ring), (count,), generator=generator)
            parts.append({name: value[index] for name, value in ring.items.items()})
        wanted = [name for name in parts[0] if name not in (_KEY, _AGE)]
        return {name: torch.cat([part[name] for part in parts]) for name in wanted}

    def state_dict(self) -> dict[str, object]:
        """Return all items and counters, in tensors and plain numbers."""
        return {
            "low": self.low,
            "high": self.high,
            "within": self.within,
            "added": self.added,
            "rings": [ring.state_dict() for ring in self._all],
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` returned."""
        low, high, within, rings = (state[name] for name in ("low", "high", "within", "rings"))
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert isinstance(state["added"], int)
        assert isinstance(rings, list)
        if len(rings) != self.bins + 2:
            raise UsageError(
                f"the saved replay buffer has {len(rings) - 2} bins, this one {self.bins}"
            )
        self.low, self.high, self.added = low, high, state["added"]
        assert isinstance(within, tuple | list)
        self.within = (within[0], within[1])
        for ring, saved in zip(self._all, rings, strict=True):
            ring.load_state_dict(saved, self.device)

    def _bin(self, key: Tensor) -> Tensor:
        width = self.high - self.low
        if width > 0:
            index = ((key - self.low) / width * self.bins).clamp(0, self.bins - 1).long()
        else:
            index = torch.zeros_like(key, dtype=torch.long)
        index = torch.where(key < self.within[0], self.bins, index)
        return torch.where(key > self.within[1], self.bins + 1, index)

    @property
    def _all(self) -> list["_Ring"]:
        """The bins of the range, the one below and the one above."""
        return [*self.rings, *self.tails]

    def _insert(self, items: dict[str, Tensor]) -> None:
        """Add items, oldest first, to the rings of their bins."""
        if self.bins == 1:
            self.rings[0].add(items)
            return
        index = self._bin(items[_KEY])
        for number in index.unique().tolist():
            chosen = (index == number).nonzero().squeeze(-1)
            self._all[number].add({name: value[chosen] for name, value in items.items()})

    def _redistribute(self) -> None:
        """Move every item to its bin of the new range; the newest of each bin stay."""
        old = [ring.items for ring in self._all if len(ring) > 0]
        everything = {name: torch.cat([items[name] for items in old]) for name in old[0]}
        order = everything[_AGE].argsort()
        self.rings = [_Ring(self.capacity) for _ in range(self.bins)]
        self.tails = [_Ring(self.capacity) for _ in range(2)]
        self._insert({name: value[order] for name, value in everything.items()})


def finite_items(items: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out items with values that are not finite: they would spoil the models."""
    if all(bool(value.sum().isfinite()) for value in items.values()):
        return items
    finite = torch.stack(
        [v.flatten(1).isfinite().all(-1) if v.ndim > 1 else v.isfinite() for v in items.values()]
    ).all(0)
    if bool(finite.all()):
        return items
    return {name: value[finite] for name, value in items.items()}


class _Ring:
    """A ring buffer of the newest `capacity` items, growing on demand."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.head = 0  # where the next item goes once the ring is full
        self.count = 0
        self.rows: dict[str, Tensor] = {}  # of which the first `count` are in use

    def __len__(self) -> int:
        return self.count

    @property
    def items(self) -> dict[str, Tensor]:
        return {name: rows[: self.count] for name, rows in self.rows.items()}

    def add(self, items: dict[str, Tensor]) -> None:
        items = {name: value[-self.capacity :] for name, value in items.items()}
        added = len(items[_KEY])
        fresh = min(added, self.capacity - self.count)
        if fresh > 0:
            self._grow(self.count + fresh, items)
            for name, value in items.items():
                self.rows[name][self.count : self.count + fresh] = value[:fresh]
            self.count += fresh
        if added > fresh:
            slot = (torch.arange(added - fresh) + self.head) % self.capacity
            for name, value in items.items():
                self.rows[name][slot] = value[fresh:]
            self.head = (self.head + added - fresh) % self.capacity

    def _grow(self, needed: int, like: dict[str, Tensor]) -> None:
        """Make room; to twice the size, so that items are seldom copied."""
        if self.rows and len(self.rows[_KEY]) >= needed:
            return
        size = min(self.capacity, max(needed, 2 * self.count))
        before, self.rows = self.items, {}
        for name, value in like.items():
            self.rows[name] = value.new_empty(size, *value.shape[1:])
            if before:
                self.rows[name][: self.count] = before[name]

    def state_dict(self) -> dict[str, object]:
        full = self.count == len(self.rows.get(_KEY, ()))
        items = self.rows if full else {n: value.clone() for n, value in self.items.items()}
        return {"head": self.head, "items": dict(items)}  # a view would be saved whole

    def load_state_dict(self, state: dict[str, object], device: torch.device) -> None:
        head, items = state["head"], state["items"]
        assert isinstance(head, int)
        assert isinstance(items, dict)
        self.head = head
        # copies: the ring writes in place, and the loaded state may be used again
        self.rows = {name: value.to(device, copy=True) for name, value in items.items()}
        self.count = len(items[_KEY]) if items else 0
