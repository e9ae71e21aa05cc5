"""JAX's arrays as torch tensors and back, in the same memory."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.jax.library import jax, jnp

Array = Any
"""A JAX array; inside compiled functions, what stands for one."""


def jax_device(device: torch.device) -> Any:
    """Return JAX's name of a device.

    Raises:
        UsageError: JAX cannot reach it.
    """
    try:
        return jax.devices("cpu" if device.type == "cpu" else "cuda")[device.index or 0]
    except (RuntimeError, IndexError) as error:
        raise UsageError(
            f"JAX cannot reach {str(device)!r} ({str(error).splitlines()[0]}); install a JAX that "
            'can (pip install "jax[cuda12]"), or use device="cpu"'
        ) from error


def random_keys(seeds: list[int], device: Any) -> Array:
    """Return a random key per copy: `jax.random.PRNGKey` of its seed, below 2**32.

    Args:
        seeds: one per copy.
        device: JAX's, where the keys live.
    """
    with jax.default_device(device):
        keys = jax.vmap(jax.random.PRNGKey)(jnp.asarray(seeds, dtype=jnp.uint32))
    return jax.device_put(keys, device)


def to_torch(array: Array) -> Tensor:
    """Return a tensor of the same memory."""
    return from_dlpack(jax.block_until_ready(array))


def to_jax(tensor: Tensor) -> Array:
    """Return an array of the same memory, which must not be written to from now on.

    A tensor that starts within a cache line is copied.
    """
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def is_key(leaf: Any) -> bool:
    """Return whether an array, or its shape, is of typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def settled(leaf: Any) -> Array:
    """Return a number of a fixed dtype: for a weak one JAX would recompile the next step."""
    array = jnp.asarray(leaf)
    return array if is_key(array) else array.astype(array.dtype)


def saved(leaf: Array) -> Tensor:
    """Return a copy of an array as a tensor, typed random keys as their numbers."""
    return to_torch(jax.random.key_data(leaf) if is_key(leaf) else leaf).clone()


def restored(tensor: Tensor, like: Any, device: torch.device) -> Array:
    """Return the array of which `saved` made a tensor; `like` has its dtype."""
    array = to_jax(tensor.to(device, copy=True))
    return jax.random.wrap_key_data(array, impl=like.dtype) if is_key(like) else array
