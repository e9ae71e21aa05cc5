"""Independent random streams from one seed."""

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

from diffsurrogate.config import is_whole
from diffsurrogate.errors import UsageError

GLOBAL_STREAMS = threading.RLock()
"""Held by whoever uses torch's, NumPy's and Python's global random streams; other threads wait."""


def _new_lock() -> None:
    global GLOBAL_STREAMS
    GLOBAL_STREAMS = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)  # a thread that is not in the child may hold it


@contextlib.contextmanager
def seeded(seed: int | None = None) -> Iterator[None]:
    """Draw from torch's global stream as from `seed`, then put it back as it was.

    Args:
        seed: None goes on from where the stream is.
    """
    with GLOBAL_STREAMS, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def derive_seed(seed: int, purpose: str) -> int:
    """Return a separate seed for each purpose.

    Streams with the same seed would be identical: exploration noise would be a function of the
    initial states.

    Raises:
        UsageError: the seed is no whole number of at least 0.
    """
    if not is_whole(seed) or seed < 0:
        raise UsageError(f"seed is {seed!r}; give a whole number of at least 0")
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derive_env_seed(seed: int, purpose: str) -> int:
    """Return a separate seed for an env, below 2³¹: many simulators accept no larger ones."""
    return derive_seed(seed, purpose) % 2**31
