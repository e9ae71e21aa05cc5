"""Tensors for sums by hand: one number per step, ends at given steps, and seeded noise."""

from typing import Any

import torch
from torch import Tensor

ENVS, AGENTS = 7, 3


def rows(*numbers: float) -> Tensor:
    """One number per step, the same for every env and agent: (time, env, agent)."""
    return torch.tensor(numbers)[:, None, None].expand(-1, ENVS, AGENTS).clone()


def flags(*steps: int, horizon: int = 3) -> Tensor:
    """True at the steps given, in every env: (time, env)."""
    out = torch.zeros(horizon, ENVS, dtype=torch.bool)
    out[list(steps)] = True
    return out


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def actions(env: Any, steps: int, seed: int = 1) -> Tensor:
    """(step, env, agent, act_dim) uniform in the box."""
    generator = torch.Generator().manual_seed(seed)
    low, high = env.action_low.cpu(), env.action_high.cpu()
    return low + (high - low) * torch.rand(steps, env.num_envs, *low.shape, generator=generator)
