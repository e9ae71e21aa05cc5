"""Evaluation of a policy on the first episode of many envs, with a fixed seed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.config import require_whole
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.episodes import RESERVED, last_of_episodes
from diffsurrogate.envs.registry import check_adapted
from diffsurrogate.errors import UsageError

EVALUATION_SEED = 1_000_003
"""Of evaluations on the way."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Results of a policy in the first episode of every env, less those that broke."""

    returns: Tensor
    """(env,) float64, undiscounted, summed over agents."""
    max_returns: Tensor | None
    """(env,) the largest attainable return, if the env knows it."""
    lengths: Tensor
    """(env,) steps until the episode or the evaluation ended."""
    terminated: Tensor
    """(env,) bool: the episode terminated."""
    info: dict[str, Tensor] = field(default_factory=dict)
    """(env,) per number that the env reports, such as `is_success`, at the episode's last step."""

    def __repr__(self) -> str:
        """Return the means, on one line."""
        known = {name: value for name, value in self.summary().items() if value is not None}
        means = ", ".join(f"{name}={value:.4g}" for name, value in known.items())
        return f"<Evaluation of {len(self.returns)} episodes: {means}>"

    @property
    def mean_return(self) -> float:
        """Mean return over envs."""
        return float(self.returns.mean())

    @property
    def normalised_return(self) -> float | None:
        """Mean return divided by the mean largest return, at most 1; None if unknown."""
        if self.max_returns is None:
            return None
        return float(self.returns.mean() / self.max_returns.mean())

    def summary(self) -> dict[str, float | None]:
        """Return the figures for a run's summary."""
        return {
            "normalised_return": self.normalised_return,
            "mean_return": self.mean_return,
            "episode_length": float(self.lengths.float().mean()),
            "terminated_share": float(self.terminated.float().mean()),
        } | {f"info/{name}": float(told.nanmean()) for name, told in self.info.items()}


def evaluate(
    predict: Callable[[Tensor], Tensor],
    env: MultiAgentVectorEnv,
    *,
    steps: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Run the first episode of every env; steps after an autoreset do not count.

    Args:
        predict: maps obs (env, agent, obs_dim) to actions, such as `SHAC.predict`, or for recurrent
            policies `PPO.policy(env)`.
        env: not the one trained on, as it is reset.
        steps: largest number of steps; None for the env's time limit.
        seed: of the reset.

    Raises:
        UsageError: the policy cannot be called; the env is none of ours; `steps` is below 1, or
            missing for an env without a time limit; or no env gave finite values only.

    Warns:
        RuntimeWarning: some env gave a value that is not finite; its episode is left out.
    """
    _check(predict, env)
    steps = env.max_steps if steps is None else steps
    if steps is None:
        raise UsageError("the env has no time limit; give steps=..., the longest episode to run")
    require_whole("steps", steps, low=1)
    env.reset(seed=seed)
    max_returns = env.max_return()
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    lengths = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
    terminated = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    running, finite = torch.ones_like(terminated), torch.ones_like(terminated)
    last: dict[str, Tensor] = {}
    with torch.no_grad(), env.restarting_broken():
        for _ in range(steps):
            _, reward, terminates, truncates, info = env.step(predict(env.current_obs))
            reported = {name: told for name, told in info.items() if name not in RESERVED}
            last = last_of_episodes(last, reported, running)
            returns += torch.where(running, reward.double().sum(-1), 0.0)
            lengths += running
            terminated |= running & terminates
            ended = running & (terminates | truncates)
            if not bool(ended.any()):
                continue
            # an env that breaks is truncated, so its last observation tells
            finite &= ~ended | info["final_obs"].isfinite().flatten(1).all(1)
            running &= ~ended
            if not bool(running.any()):
                break
    finite &= returns.isfinite()
    if not bool(finite.all()):
        _tell_of_broken(finite)
    return Evaluation(
        returns=returns[finite],
        max_returns=None if max_returns is None else max_returns[finite],
        lengths=lengths[finite],
        terminated=terminated[finite],
        info={name: told[finite] for name, told in last.items()},
    )


def _check(predict: Any, env: Any) -> None:
    """Refuse what is no policy, or no env of ours."""
    if not callable(predict):
        raise UsageError(
            f"evaluate cannot call a {type(predict).__name__}; give a function of observations, "
            "such as agent.predict"
        )
    check_adapted(env, "evaluate cannot step")


def _tell_of_broken(finite: Tensor) -> None:
    """Warn of envs that were not finite (env,); refuse if none was."""
    broken = (~finite).nonzero().squeeze(-1)
    said = f"a reward or an observation of env {int(broken[0])} is not finite"
    if len(broken) == len(finite):
        raise UsageError(f"{said}, and likewise in every other env; mend the env")
    warnings.warn(
        f"{said}; the episodes of {len(broken)} of {len(finite)} envs are left out",
        RuntimeWarning,
        stacklevel=3,
    )
