"""A random stream of an env's own, for simulators that draw from the global generators."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from diffsurrogate import seeding
from diffsurrogate.errors import UsageError


class Stream:
    """States of torch's, NumPy's, Python's and (on CUDA) the device's generator.

    Made from a seed without touching the global generators, CUDA's in particular, which
    `torch.manual_seed` would reseed.
    """

    def __init__(self, seed: int, device: torch.device | str) -> None:
        """Start the stream that `torch.manual_seed(seed)` and its like would."""
        if not 0 <= seed < 2**32:
            raise UsageError(f"seed is {seed}; give a whole number from 0 to 2**32 - 1")
        self.device = torch.device(device)
        self.states: list[Any] = [
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed).get_state(),
            random.Random(seed).getstate(),
        ]
        self.cuda: torch.Tensor | None = None
        if self.device.type == "cuda":
            self.cuda = torch.Generator(self.device).manual_seed(seed).get_state()

    @classmethod
    def branch(cls, states: list[Any], device: torch.device | str) -> "Stream":
        """Start where another stream stands, given its three states; it goes on unchanged."""
        stream = cls(0, device)
        stream.states = list(states)
        if stream.cuda is not None:
            stream.cuda = torch.cuda.get_rng_state(stream.device)
        return stream

    def install_globally(self) -> None:
        """Let the global generators go on from here."""
        _set_global_states(self.states)

    @contextlib.contextmanager
    def used_by_vmas(self, shared: list[Any]) -> Iterator[None]:
        """Lend this stream to VMAS, which keeps one for all envs in the list `shared`.

        However the block ends, the shared list and every global generator are as they were. Other
        threads that need them wait.
        """
        with seeding.GLOBAL_STREAMS:
            yield from self._lent(shared)

    def _lent(self, shared: list[Any]) -> Iterator[None]:
        theirs, outside = list(shared), _global_states()
        shared[:] = self.states
        cuda = None
        if self.cuda is not None:
            cuda = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.cuda, self.device)
        try:
            yield
        finally:
            self.states = list(shared)
            shared[:] = theirs
            _set_global_states(outside)
            if cuda is not None:
                self.cuda = torch.cuda.get_rng_state(self.device)
                torch.cuda.set_rng_state(cuda, self.device)

    def save(self) -> dict[str, Any]:
        """Return tensors, numbers and strings, loadable with `weights_only`."""
        _, key, position, has_gauss, gauss = self.states[1]
        return {
            "torch": self.states[0].clone(),
            "numpy": (torch.from_numpy(key.astype(np.int64)), position, has_gauss, gauss),
            "python": self.states[2],
            "cuda": None if self.cuda is None else self.cuda.clone(),
        }

    @classmethod
    def load(cls, saved: dict[str, Any], device: torch.device | str) -> "Stream":
        """Go on where `save` was called."""
        stream = cls(0, device)
        key, position, has_gauss, gauss = saved["numpy"]
        version, internal, gauss_next = saved["python"]
        stream.states = [
            saved["torch"].cpu().clone(),
            ("MT19937", key.cpu().numpy().astype(np.uint32), position, has_gauss, gauss),
            (version, tuple(internal), gauss_next),
        ]
        if stream.cuda is not None and saved["cuda"] is not None:
            stream.cuda = saved["cuda"].cpu().clone()
        return stream


def _global_states() -> list[Any]:
    return [torch.random.get_rng_state(), np.random.get_state(), random.getstate()]


def _set_global_states(states: list[Any]) -> None:
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
