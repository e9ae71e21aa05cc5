"""Errors of models on windows they were not trained on."""

import torch
from torch import Tensor

from diffsurrogate.envs.window import Window
from diffsurrogate.nets.normaliser import RESOLUTION


def fvu(predicted: Tensor, target: Tensor) -> float:
    """Return the fraction of variance unexplained: mean squared error over target variance.

    If the target is constant, the mean squared error.
    """
    variance = float(target.var(correction=0))
    error = float((predicted - target).square().mean())
    constant = variance <= RESOLUTION**2 * float(target.square().mean())
    return error if constant else error / variance


def fvu_by_feature(
    predicted: Tensor, window: Window, continuous: Tensor, usual: Tensor | float = 0.0
) -> Tensor:
    """Return the unexplained fraction of each feature's mean squared change: (agent, obs_dim).

    NaN for features that are not continuous, or hardly change in the window.

    Args:
        predicted: (time, env, agent, obs_dim), of `window.next_obs`.
        window: the observed steps.
        continuous: (agent, obs_dim) bool, the features to include.
        usual: (agent, obs_dim), the usual size of a change, a hundredth of which is hardly any.
    """
    error = (predicted - window.next_obs).square().mean((0, 1))
    change = (window.next_obs - window.obs).square().mean((0, 1))
    moves = change > RESOLUTION**2 * window.next_obs.square().mean((0, 1))
    moves &= change > (0.01 * usual) ** 2
    return torch.where(continuous & moves, error / change, torch.nan)


def fvu_of_change(
    predicted: Tensor, window: Window, continuous: Tensor, usual: Tensor | float = 0.0
) -> float:
    """Return the mean of `fvu_by_feature` over features that change; 0 if none does."""
    shares = fvu_by_feature(predicted, window, continuous, usual)
    shares = shares[~shares.isnan()]
    return float(shares.mean()) if len(shares) else 0.0


def some_envs(window: Window, envs: int = 32) -> Window:
    """Return the first `envs` envs of a window, enough to estimate errors; fewer of many agents."""
    envs = max(min(envs, 4), 3 * envs // max(3, window.reward.shape[-1]))
    if window.reward.shape[1] <= envs:
        return window
    return window.each(lambda values: values[:, :envs])
