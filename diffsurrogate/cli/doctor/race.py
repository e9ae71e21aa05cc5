"""The doctor's race: PPO and SHAC++ train on the env for as many CPU-seconds each."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from diffsurrogate.cli.options import MadeOptions, made_with
from diffsurrogate.envs.registry import make
from diffsurrogate.presets.recommend import recommended
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.trainer import Trainer

Racer = Literal["ppo", "shac++"]
_RACERS: tuple[Racer, ...] = ("ppo", "shac++")
_EPISODES = 64
LONGEST = 1000
"""Steps of an evaluation episode where the env has no time limit."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a method had learned when its time was up."""

    method: Racer
    cpu_seconds: float
    """Of training."""
    env_steps: int
    mean_return: float
    """Over the episodes of the evaluation, summed over agents."""
    error: float
    """Standard error of the mean return."""

    def __str__(self) -> str:
        return (
            f"{self.method} {self.mean_return:.4g} ± {self.error:.2g} after {self.env_steps:,} "
            f"steps and {self.cpu_seconds:.0f} CPU-s"
        )


def race(options: MadeOptions, seconds: float) -> list[Result]:
    """Train each method for so many CPU-seconds by its recipe; the best last.

    Raises:
        UsageError: the env cannot be trained on.
    """
    results = [_train(method, options, seconds) for method in _RACERS]
    return sorted(results, key=lambda result: result.mean_return)


def _train(method: Racer, options: MadeOptions, seconds: float) -> Result:
    recipe = recommended(method, options.env, options.agents)
    agent, _ = recipe.make(seed=options.seed, device=options.device, **options.env_options)
    started = time.process_time()

    def in_time(agent: Trainer, metrics: Metrics) -> bool:
        return time.process_time() - started < seconds

    agent.learn(recipe.run.total_steps, in_time)
    used = time.process_time() - started
    made = made_with(recipe.agents, options.env_options)
    judge = make(options.env, num_envs=_EPISODES, device=options.device, **made)
    limit = None if judge.max_steps is not None else LONGEST
    returns = evaluate(agent.predict, judge, steps=limit, seed=options.seed + 1).returns.double()
    return Result(
        method=method,
        cpu_seconds=used,
        env_steps=agent.env_steps,
        mean_return=float(returns.mean()),
        error=float(returns.std()) / len(returns) ** 0.5,
    )


def is_ahead(result: Result, other: Result) -> bool:
    """Return whether a mean return is the larger by more than two standard errors."""
    return result.mean_return - other.mean_return > 2 * math.hypot(result.error, other.error)
