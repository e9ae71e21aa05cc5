"""Independent random streams from one seed."""

import numpy as np


def derive_seed(seed: int, purpose: str) -> int:
    """Return a separate seed for each purpose.

    Streams with the same seed would be identical: exploration noise would be a function of the
    initial states.
    """
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derive_env_seed(seed: int, purpose: str) -> int:
    """Return a separate seed for an env, below 2³¹: many simulators accept no larger ones."""
    return derive_seed(seed, purpose) % 2**31
