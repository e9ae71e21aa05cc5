"""What the adapters of other libraries' envs have in common: NumPy outside, tensors inside."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.errors import UsageError


class RawEnvAdapter(MultiAgentVectorEnv):
    """An env of another library: no graph runs through it, and its state cannot be had."""

    library: ClassVar[str]
    """Its name, for messages."""

    def detach(self) -> None:
        """Do nothing: no graph runs through the simulator."""

    def _shared(self, rows: Tensor) -> Tensor:
        """Return what the raw env has once, `(env, 1, ...)`, for every agent, on the device."""
        return rows.to(self.device).repeat_interleave(self.num_agents, dim=1)

    def _save(self) -> State:
        raise NotImplementedError(
            f"{self.library} has no way to save an env's state; episodes start anew when a run is "
            "resumed"
        )

    def _restore(self, state: State) -> None:
        raise NotImplementedError(
            f"{self.library} has no way to restore an env's state; call reset(seed=...) instead"
        )


def check_options(
    env_id: str,
    num_envs: int,
    differentiable: bool,
    max_steps: int | None,
    render_mode: str | None,
    *,
    drawable: bool = True,
) -> None:
    """Refuse what no raw env can be made with.

    Args:
        env_id: for messages.
        num_envs: copies.
        differentiable: whether gradients of the env's own are asked for.
        max_steps: steps until truncation.
        render_mode: how to draw.
        drawable: whether such envs can be drawn here at all.

    Raises:
        UsageError: an option is out of range.
    """
    if num_envs < 1:
        raise UsageError(f"num_envs is {num_envs}; at least 1 copy of the env is needed")
    if differentiable:
        raise UsageError(
            f"{env_id} has no gradients of its own; leave differentiable=False and learn them with "
            "LearnedDiffWrapper, as train shac++ does"
        )
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps is {max_steps}; give at least 1, or None for the env's own")
    if render_mode is not None and not drawable:
        raise UsageError(
            f"render_mode is {render_mode!r}, but {env_id} cannot be drawn here yet; leave it out"
        )
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode is {render_mode!r}; give 'rgb_array' or None")


def check_render_mode(render_mode: str | None) -> None:
    """Refuse to draw an env that was not made for it."""
    if render_mode != "rgb_array":
        raise UsageError(
            f"this env was made with render_mode={render_mode!r}; make it with "
            'render_mode="rgb_array" to get pictures'
        )


def not_drawn(error: Exception) -> UsageError:
    """Return what to say of an error of the simulator's own while an env was drawn."""
    return UsageError(
        f"this env could not be drawn ({error}); MuJoCo needs OpenGL: without a display, set the "
        "environment variable MUJOCO_GL=egl"
    )


def copies_of(
    raw_env: Any, num_envs: int | None, make_another: Callable[[], Any] | None, kind: str
) -> list[Any]:
    """Return as many raw envs as asked for, the one given and others that a function makes.

    Args:
        raw_env: the first.
        num_envs: how many; None for one.
        make_another: makes further ones.
        kind: of env, for messages.

    Raises:
        UsageError: there is no function, or less than one copy is asked for.
    """
    count = 1 if num_envs is None else num_envs
    if count < 1:
        raise UsageError(f"num_envs is {num_envs}; at least 1 copy of the env is needed")
    if count > 1 and make_another is None:
        raise UsageError(
            f"num_envs is {num_envs}, but one {kind} cannot be copied; give a function that makes "
            "one: as_multi_agent(lambda: MyEnv(), num_envs=8)"
        )
    return [raw_env] + [make_another() for _ in range(count - 1) if make_another]


def flat_box(space: gymnasium.Space[Any]) -> spaces.Box | None:
    """Return the box of a flattened observation; None if it has no fixed size."""
    try:
        flat: gymnasium.Space[Any] = spaces.flatten_space(space)
    except NotImplementedError:
        return None
    return flat if isinstance(flat, spaces.Box) else None


def raw_actions(
    space: spaces.Box | spaces.Discrete | spaces.MultiDiscrete, action: Tensor, num_envs: int
) -> NDArray[Any]:
    """Return what a space takes for actions `(env, agent, act_dim)` in the box.

    Of one agent; for a `MultiDiscrete` space, of one agent per choice.
    """
    rows = action.detach().cpu()
    if isinstance(space, spaces.Discrete):
        return rows.argmax(-1).squeeze(1).numpy() + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        choices = rows.argmax(-1).numpy().reshape(num_envs, *space.shape) + space.start
        return choices.astype(space.dtype)
    return rows.numpy().astype(space.dtype).reshape(num_envs, *space.shape)


def env_seeds(seed: int, num_envs: int) -> list[int]:
    """Return a seed per copy; unlike seed, seed + 1, ..., those of two seeds do not overlap."""
    return np.random.SeedSequence(seed).generate_state(num_envs).tolist()
