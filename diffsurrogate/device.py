"""Devices, checked before anything is built on them."""

import torch

from diffsurrogate.errors import UsageError


def usable_device(device: torch.device | str) -> torch.device:
    """Return the device.

    Raises:
        UsageError: it is unknown or cannot be reached.
    """
    name = str(device)
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(
            f"device {name!r} is not known; use cpu, cuda or cuda:<number> (--device cpu)"
        )
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {name!r} cannot be used ({reason}); use cpu (--device cpu)"
        ) from error
    return found
