"""Trainers: SHAC, PPO, IPPO, MAPPO, BPPO, ARMAPPO and HAPPO."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # __init__.pyi
