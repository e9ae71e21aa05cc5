"""Evaluation: deterministic policy, fixed seed, whole first episodes, many envs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a policy earned in the first episode of every env."""

    returns: Tensor
    """(env,) undiscounted, summed over agents."""
    max_returns: Tensor | None
    """(env,) the largest attainable return, where the env knows it."""
    lengths: Tensor
    """(env,) steps until the episode ended or the evaluation did."""
    terminated: Tensor
    """(env,) bool: the episode ended by state."""

    @property
    def mean_return(self) -> float:
        """Mean over envs."""
        return float(self.returns.mean())

    @property
    def normalised_return(self) -> float | None:
        """Mean return over mean largest return; 1 is the best there is. None if unknown."""
        if self.max_returns is None:
            return None
        return float(self.returns.mean() / self.max_returns.mean())

    def summary(self) -> dict[str, float | None]:
        """Return the figures a run's summary shows."""
        return {
            "normalised_return": self.normalised_return,
            "mean_return": self.mean_return,
            "episode_length": float(self.lengths.float().mean()),
            "terminated_share": float(self.terminated.float().mean()),
        }


def evaluate(
    predict: Callable[[Tensor], Tensor],
    env: MultiAgentVectorEnv,
    *,
    steps: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Run the first episode of every env; what follows an autoreset does not count.

    Args:
        predict: maps obs (env, agent, obs_dim) to actions, such as `SHAC.predict`, or what
            `PPO.policy(env)` returns, which policies with memory need.
        env: another than the one trained on; it is reset.
        steps: longest episode looked at; the env's time limit if None.
        seed: of the reset.

    Raises:
        UsageError: neither `steps` nor a time limit of the env says where to stop.
    """
    steps = env.max_steps if steps is None else steps
    if steps is None:
        raise UsageError("the env has no time limit; give steps=..., how long an episode may take")
    if steps < 1:
        raise UsageError(f"evaluation takes {steps} steps; give steps=..., at least 1")
    env.reset(seed=seed)
    max_returns = env.max_return()
    returns = torch.zeros(env.num_envs, device=env.device)
    lengths = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
    terminated = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    running = torch.ones_like(terminated)
    with torch.no_grad():
        for _ in range(steps):
            _, reward, ended, cut, _ = env.step(predict(env.current_obs))
            returns += torch.where(running, reward.sum(-1), 0.0)
            lengths += running
            terminated |= running & ended
            running &= ~(ended | cut)
            if not bool(running.any()):
                break
    return Evaluation(
        returns=returns, max_returns=max_returns, lengths=lengths, terminated=terminated
    )
