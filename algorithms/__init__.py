"""Trainers: SHAC, PPO, IPPO, MAPPO, BPPO, ARMAPPO and HAPPO."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO, BPPOConfig
    from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
    from diffsurrogate.algorithms.shac import SHAC, SHACConfig

__all__ = [
    "ARMAPPO",
    "BPPO",
    "HAPPO",
    "IPPO",
    "MAPPO",
    "PPO",
    "SHAC",
    "BPPOConfig",
    "PPOConfig",
    "SHACConfig",
]
_MODULES = {"SHAC": "shac", "SHACConfig": "shac", "PPOConfig": "ppo", "BPPOConfig": "bppo"}
_MODULES |= dict.fromkeys(("PPO", "IPPO", "MAPPO"), "ppo")
_MODULES |= dict.fromkeys(("BPPO", "ARMAPPO", "HAPPO"), "bppo")


def __getattr__(name: str) -> Any:
    """Import a trainer or its configuration on first access."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
