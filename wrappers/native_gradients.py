"""What a simulator must differentiate itself, because nothing is learned in its place."""

from torch import nn

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError


def enable_native(
    env: MultiAgentVectorEnv, *, reward: bool | nn.Module, dynamics: bool | nn.Module, mix: float
) -> None:
    """Switch on the gradients of an env's own that are not learned, or are mixed in.

    Args:
        env: the simulator.
        reward: as `LearnedDiffWrapper` takes it; only False matters here.
        dynamics: likewise.
        mix: share of the env's own gradient.

    Raises:
        UsageError: the env lacks one.
    """
    if dynamics is False:
        _require(env, "dynamics")
    if reward is False:
        _require(env, "reward", "dynamics")  # a reward's gradient runs through the physics
    if mix > 0:
        env.enable_gradients("dynamics")
        if dynamics is False and "reward" not in env.gradients:
            raise UsageError(
                "mix blends true and learned gradients, but with dynamics=False and no reward "
                "gradient of the env's own there is nothing to blend; leave mix at 0"
            )


def _require(env: MultiAgentVectorEnv, asked: str, *also: str) -> None:
    """Turn on the env's own gradients, or say what to do instead."""
    try:
        env.enable_gradients(asked, *also)
    except UsageError as error:
        raise UsageError(
            f"{asked}=False asks for the env's own {asked} gradient, but it has none: {error}. "
            f"Leave {asked}=True to learn one"
        ) from error
