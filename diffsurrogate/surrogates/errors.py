"""How much of what a model predicts it leaves unexplained."""

import torch
from torch import Tensor

from diffsurrogate.envs.window import Window


def fvu(predicted: Tensor, target: Tensor) -> float:
    """Return the mean squared error over the variance of the target; 0 where both vanish."""
    variance = float(target.var(correction=0))
    error = float((predicted - target).square().mean())
    return error / variance if variance > 1e-12 else error


def fvu_by_feature(predicted: Tensor, window: Window, continuous: Tensor) -> Tensor:
    """Return the unexplained share of the changes of each entry (agent, obs_dim).

    NaN where an entry does not move or does not count.

    Args:
        predicted: (time, env, agent, obs_dim), of `window.next_obs`.
        window: what happened.
        continuous: (agent, obs_dim) bool, the entries that count.
    """
    error = (predicted - window.next_obs).square().mean((0, 1))
    change = (window.next_obs - window.obs).square().mean((0, 1))
    return torch.where(continuous & (change > 1e-12), error / change, torch.nan)


def fvu_of_change(predicted: Tensor, window: Window, continuous: Tensor) -> float:
    """Return the mean of `fvu_by_feature` over those that move; 0 if none does."""
    shares = fvu_by_feature(predicted, window, continuous)
    shares = shares[~shares.isnan()]
    return float(shares.mean()) if len(shares) else 0.0


def some_envs(window: Window, envs: int = 32) -> Window:
    """Return a few envs of a window: enough to measure an error on."""
    if window.reward.shape[1] <= envs:
        return window
    return window.each(lambda values: values[:, :envs])
