"""What the doctor finds out about an env."""

from dataclasses import dataclass

from torch import Tensor

from diffsurrogate.actor_critic.exploration import NoiseKind
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """Whether the env does what the protocol says."""

    repeats: bool
    """The same seed and actions give the same numbers."""
    continues: bool | None
    """From a saved state it goes on to the same numbers; None if it saves none."""
    outside: float
    """Share of observed entries outside of the declared space."""
    not_finite: int
    """Observations and rewards that are NaN or infinite."""
    ends: int
    """Ends of episodes after which the next observation was seen."""
    not_reset: int
    """Those of them after which it was still the last one; 0 if no more than chance explains."""


@dataclass(frozen=True, kw_only=True)
class RandomPlay:
    """What a new policy meets; windows of its noise, white and, unless discrete, correlated."""

    transitions: int
    rewarded: dict[NoiseKind, float]
    """By kind of noise: share of transitions whose reward is not the usual one."""
    usual_reward: float
    """The most frequent reward."""
    reward_mean: float
    reward_deviation: float
    smallest_reward: float
    largest_reward: float
    team_reward: bool
    """All agents always got the same."""
    terminated: int
    """Episodes that ended by state."""
    truncated: int
    """Episodes that were cut by a time limit, and not ended by state in the same step."""
    whole_entries: int
    """Entries of (agent, obs_dim) that are flags or categories (`ValuesSeen`), no padding."""
    still_entries: int
    """Entries that never change."""
    useless: tuple[str, ...]
    """Names of entries that never change, or equal another of the same agent."""
    scales: tuple[float, float]
    """Smallest and largest deviation of the others."""


@dataclass(frozen=True, kw_only=True)
class OwnGradients:
    """What the simulator differentiates by itself."""

    kinds: tuple[str, ...]
    report: str | None
    """Of `check_gradients`; None without gradients."""
    reason: str | None
    """Why there is none, or why it could not be checked."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well models fit episodes that they never saw."""

    reward_error: float
    """Mean squared error over variance, on episodes that no model saw: 0 is perfect, 1 no better
    than the mean."""
    seen_error: float
    """Likewise on what the model learned from."""
    episodes: int
    """Of those that no model saw."""
    entry_errors: Tensor
    """(agent, obs_dim): likewise of the change of each observation entry; NaN where nothing changes
    or no gradient passes."""
    rewards: Tensor
    """(2, sample): true and predicted."""
    growth: Tensor | None
    """(time,): the norm of the slope of an observation k + 1 steps after an action with respect to
    that action, over that of the next observation, as far as at least half of the episodes last.
    None where actions are choices."""
    cosine: float | None
    """Of the learned with the true gradient of a window's reward; None without a true one."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that was found."""

    name: str
    """Of the env, for the report."""
    env: MultiAgentVectorEnv
    conduct: Conduct
    random_play: RandomPlay
    own: OwnGradients
    fit: Fit
    windows: tuple[Window, ...]
