"""Recorded data as windows, to pretrain the models with `LearnedDiffWrapper.fit`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy
from diffsurrogate.envs.window import Window, check_horizon
from diffsurrogate.errors import UsageError


def record(
    env: MultiAgentVectorEnv, policy: Policy, *, windows: int, horizon: int = 32
) -> Iterator[Window]:
    """Yield windows collected with any policy, from the env's current state.

    Args:
        env: already reset.
        policy: maps obs (env, agent, obs_dim) to actions (env, agent, act_dim).
        windows: number of windows.
        horizon: steps of each.
    """
    for _ in range(windows):
        with torch.no_grad():
            window = env.rollout(policy, horizon)
        env.detach()
        yield window.detach()


def windows_from_minari(
    dataset: Any, *, horizon: int = 32, batch: int = 64, device: torch.device | str = "cpu"
) -> Iterator[Window]:
    """Yield all steps of a Minari dataset as windows; the ends of episodes make shorter ones.

    Args:
        dataset: a `minari.MinariDataset`, or any iterable of episodes with `observations`
            (step + 1, [agent,] obs_dim), `actions` (step, [agent,] act_dim), `rewards`
            (step, agent) or (step,), of which agents get equal shares, `terminations` and
            `truncations` (step,).
        horizon: steps of a window.
        batch: largest number of trajectories in a window.
        device: where the windows go.

    Raises:
        UsageError: observations or actions are not plain arrays, or the lengths do not match.
    """
    check_horizon(horizon)
    episodes = dataset.iterate_episodes() if hasattr(dataset, "iterate_episodes") else dataset
    pending: dict[int, list[dict[str, Tensor]]] = defaultdict(list)
    for episode in episodes:
        for segment in _segments(episode, horizon):
            length = len(segment["reward"])
            pending[length].append(segment)
            if len(pending[length]) == batch:
                yield _window(pending.pop(length), device)
    for length in sorted(pending):
        yield _window(pending[length], device)


def _segments(episode: Any, horizon: int) -> Iterator[dict[str, Tensor]]:
    """Split an episode into segments of at most `horizon` steps, with an agent axis."""
    obs = _with_agents("observations", episode.observations)
    action = _with_agents("actions", episode.actions)
    reward = torch.as_tensor(np.asarray(episode.rewards), dtype=torch.float32)
    steps = len(reward)
    ends = {len(np.asarray(episode.terminations)), len(np.asarray(episode.truncations))}
    if len(obs) != steps + 1 or len(action) != steps or ends != {steps}:
        raise UsageError(
            f"an episode has {len(obs)} observations, {len(action)} actions, {steps} rewards and "
            f"{sorted(ends)} terminations and truncations; one more observation than of each of "
            "the others is needed"
        )
    if reward.ndim == 1:
        reward = reward.unsqueeze(-1).expand(-1, obs.shape[1]) / obs.shape[1]
    whole = {
        "obs": obs[:-1],
        "action": action,
        "reward": reward,
        "next_obs": obs[1:],
        "terminated": torch.as_tensor(np.asarray(episode.terminations), dtype=torch.bool),
        "truncated": torch.as_tensor(np.asarray(episode.truncations), dtype=torch.bool),
    }
    for start in range(0, steps, horizon):
        yield {name: value[start : start + horizon] for name, value in whole.items()}


def _with_agents(name: str, values: Any) -> Tensor:
    """Return (step, agent, feature) float32; an array without an agent axis has one agent."""
    if not isinstance(values, np.ndarray):
        raise UsageError(
            f"{name} are a {type(values).__name__}; arrays of numbers are needed: "
            "flatten them first"
        )
    tensor = torch.as_tensor(values, dtype=torch.float32)
    if tensor.ndim not in (2, 3):
        raise UsageError(
            f"{name} have shape {tuple(values.shape)}; (step, feature) or (step, agent, feature) "
            "is needed"
        )
    return tensor.unsqueeze(1) if tensor.ndim == 2 else tensor


def _window(segments: Iterable[dict[str, Tensor]], device: torch.device | str) -> Window:
    """Stack segments of one length to a window: (time, env, ...)."""
    rows = list(segments)
    fields = {n: torch.stack([row[n] for row in rows], dim=1).to(device) for n in rows[0]}
    return Window(**fields)
