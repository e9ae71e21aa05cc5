"""Independent random streams from one seed."""

import numpy as np


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for each purpose.

    Streams that all began at the same seed would hand out the same numbers: exploration noise would
    be a function of the start states.
    """
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derive_env_seed(seed: int, purpose: str) -> int:
    """Return such a seed for an env: below 2³¹, as many simulators take no larger ones."""
    return derive_seed(seed, purpose) % 2**31
