"""What the adapters of other libraries' envs have in common: NumPy outside, tensors inside."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.config import require_whole
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.registry import usable_device
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.ids import check_names, parameters_of


class ExternalEnv(MultiAgentVectorEnv):
    """An env of another library: no graph runs through it, and its state cannot be saved.

    Adapters share these options, of their classes as of `make` and `as_multi_agent`; each documents
    only where it differs, and refuses what it cannot do:

    - `num_envs`: sub-environments that step together.
    - `max_steps`: steps until truncation, no more than the env's own time limit; None for that.
    - `seed`: of the first reset without one, from which every sub-environment gets its own; None
      leaves it to the library.
    - `device`: where the tensors live; the simulator computes on the CPU.
    - `differentiable`: must be False; `LearnedDiffWrapper` learns gradients.
    - `render_mode`: "rgb_array" to be able to draw, which can make stepping slower.
    - `state`: append the env's global state to observations (`global_state_slice`).
    - `check_bounds`: refuse observations outside their space's finite bounds, by more than a
      thousandth of their range.
    """

    shares_simulator = True
    library: ClassVar[str]
    """Its name, for messages."""
    drawn_if: ClassVar[str | None] = 'make it with render_mode="rgb_array"'
    """How to make one that can be drawn, for messages; None where none can."""

    def __init__(
        self,
        *,
        device: torch.device | str,
        seed: int | None,
        limits: Iterable[int | None],
        max_steps: int | None,
        **described: Any,
    ) -> None:
        """Describe the env.

        Args:
            device, seed, max_steps: see the class.
            limits: of time, of the raw envs, of which the shortest holds; None for no limit.
            described: what else `MultiAgentVectorEnv` takes.

        Raises:
            UsageError: `max_steps` is beyond the env's own time limit.
        """
        own = min((limit for limit in limits if limit is not None), default=None)
        steps = shortened(own, max_steps)
        super().__init__(device=usable_device(device), max_steps=steps, **described)
        self._seed = seed
        self._told: dict[str, Tensor] = {}

    @classmethod
    def from_raw(
        cls, raw: Any, *, make_another: Callable[[], Any] | None = None, **options: Any
    ) -> MultiAgentVectorEnv:
        """Adapt an env of the library; `as_multi_agent` calls this.

        `make_another` makes further envs like it, where the adapter needs them.

        Raises:
            UsageError: an option is not known or not of the adapter; or as the class.
        """
        make: Callable[..., MultiAgentVectorEnv] = cls
        if options.pop("differentiable", False):
            raise _no_gradients(f"a {cls.__name__}")
        if "render_mode" in options and "render_mode" not in parameters_of(cls):
            raise UsageError(
                f"{cls.__name__} draws as the env given was made to; make that with "
                f"render_mode={options['render_mode']!r}: as_multi_agent(lambda: "
                f"YourEnv(render_mode={options['render_mode']!r}), num_envs=8)"
            )
        known = dict.fromkeys(parameters_of(cls.from_raw) + parameters_of(cls))
        check_names(cls.__name__, options, [name for name in known if name != "make_another"])
        return make(raw, **options)

    def detach(self) -> None:
        """Do nothing: no graph runs through the simulator."""

    def render(self, env_indices: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Draw the envs as they stand.

        Args:
            env_indices: which envs; None for all.

        Returns:
            one frame `(height, width, 3)` uint8 per env.

        Raises:
            UsageError: the env was made without `render_mode="rgb_array"`, or a package or the
                OpenGL that it draws with is missing.
            NotImplementedError: no env of the library can be drawn here.
        """
        if self.drawn_if is None:
            raise NotImplementedError(f"envs of {self.library} cannot be drawn here yet")
        if self.render_mode != "rgb_array":
            raise UsageError(
                f"this env was made with render_mode={self.render_mode!r}; {self.drawn_if} to get "
                "pictures"
            )
        try:
            return self._pictures(range(self.num_envs) if env_indices is None else env_indices)
        except UsageError:
            raise
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UsageError(f"drawing this env needs a package: {error}") from error
        except Exception as error:  # such as MuJoCo's own
            raise not_drawn(error) from error

    def _pictures(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], ...]:
        """Return a frame of each of these envs; the env was made to be drawn."""
        raise NotImplementedError

    def _seed_of_reset(self, seed: int | None) -> int | None:
        """Return the seed given to `reset`, or, the first time, the one the env was made with."""
        own, self._seed = self._seed, None
        return own if seed is None else seed

    def _tell(self, numbers: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep numbers `(env,)` that the raw envs reported in this step."""
        self._told = {
            name: torch.from_numpy(values).to(self.device) for name, values in numbers.items()
        }

    def _report(self) -> dict[str, Tensor]:
        return self._told

    def _shared(self, rows: Tensor) -> Tensor:
        """Return what the raw env has once, `(env, 1, ...)`, for every agent, on the device."""
        return rows.to(self.device).repeat_interleave(self.num_agents, dim=1)

    def _why_not_copied(self) -> str:
        raw = getattr(self, "raw", None)
        inner = getattr(raw, "unwrapped", raw)
        if hasattr(inner, "processes"):
            return "its sub-environments run in processes of their own"
        raws = getattr(self, "raws", getattr(inner, "envs", ()))
        if self._current is not None and any(map(_is_made_again, raws)):
            return "its library copies how an env is made (EzPickle), not the state it is in"
        return ""

    def _save(self) -> State:
        raise NotImplementedError(
            f"{self.library} has no way to save an env's state; a run that is resumed starts "
            "new episodes"
        )

    def _restore(self, state: State) -> None:
        raise NotImplementedError(
            f"{self.library} has no way to restore an env's state; call reset(seed=...) instead"
        )


def shortened(own: int | None, max_steps: int | None) -> int | None:
    """Return the time limit of an env that has its `own`, with a `max_steps` that was asked for.

    Raises:
        UsageError: more steps than the env's own are asked for.
    """
    if own is None or max_steps is None or max_steps <= own:
        return own if max_steps is None else max_steps
    raise UsageError(
        f"max_steps is {max_steps}, but the env itself ends its episodes after {own} steps; give "
        "at most that, or make the env with a longer time limit, if it takes one "
        f"(max_episode_steps={max_steps} in gymnasium.make, max_cycles in PettingZoo)"
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
    """Refuse shared options (see `ExternalEnv`) that are out of range."""
    check_count(num_envs)
    if differentiable:
        raise _no_gradients(env_id)
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps is {max_steps}; give at least 1, or None for the env's own")
    if render_mode is not None and not drawable:
        raise UsageError(
            f"render_mode is {render_mode!r}, but {env_id} cannot be drawn here yet; leave it out"
        )
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode is {render_mode!r}; give 'rgb_array' or None")


def _no_gradients(env: str) -> UsageError:
    """Return the error to raise where `env` is asked for its own gradients."""
    return UsageError(
        f"{env} has no gradients of its own; leave differentiable=False and learn them with "
        "LearnedDiffWrapper, as train shac++ does"
    )


def check_count(num_envs: int, given: int | None = None) -> None:
    """Refuse a number of envs below 1, or another than that of a vector env that was `given`."""
    require_whole("num_envs", num_envs, low=1)
    if given is not None and num_envs != given:
        raise UsageError(
            f"num_envs is {num_envs}, but this vector env has {given} envs; make it with the "
            "number you need"
        )


def not_drawn(error: Exception) -> UsageError:
    """Return the error to raise when the simulator fails to draw an env."""
    return UsageError(
        f"this env could not be drawn ({error}); without a display, MuJoCo's OpenGL needs the "
        "environment variable MUJOCO_GL=egl, and what draws into a window xvfb-run"
    )


def sub_envs_of(
    raw_env: Any, num_envs: int | None, make_another: Callable[[], Any] | None, kind: str
) -> list[Any]:
    """Return `num_envs` envs (None for one): the one given, and others that a function makes.

    Raises:
        UsageError: there is no function, or less than one is asked for.
    """
    count = 1 if num_envs is None else num_envs
    check_count(count)
    if count > 1 and make_another is None:
        raise UsageError(
            f"num_envs is {num_envs}, but one {kind} cannot be copied; give a function that makes "
            "one: as_multi_agent(lambda: MyEnv(), num_envs=8)"
        )
    return [raw_env] + [make_another() for _ in range(count - 1) if make_another]


def _is_made_again(raw: Any) -> bool:
    """Return whether a copy of a raw env is one newly made, in no episode."""
    inner = raw.unwrapped
    single = getattr(inner, "single_agent_env", inner)  # in Gymnasium-Robotics' of several agents
    return hasattr(single.unwrapped, "_ezpickle_args")


def check_distinct(raws: Sequence[Any]) -> None:
    """Refuse envs of which one is given twice."""
    if len({id(raw.unwrapped) for raw in raws}) < len(raws):
        raise UsageError("the function gave the same env twice; it must make a new one each time")


def flat_box(space: gymnasium.Space[Any]) -> spaces.Box | None:
    """Return the box of a flattened observation; None if it has no fixed size."""
    if isinstance(space, spaces.Dict | spaces.Tuple) and len(space.spaces) == 0:
        return spaces.Box(-1, 1, (0,))  # which Gymnasium cannot flatten
    try:
        flat: gymnasium.Space[Any] = spaces.flatten_space(space)
    except NotImplementedError:
        return None
    return flat if isinstance(flat, spaces.Box) else None


def env_seeds(seed: int, num_envs: int) -> list[int]:
    """Return a seed per copy; unlike seed, seed + 1, ..., those of two seeds do not overlap."""
    return np.random.SeedSequence(seed).generate_state(num_envs).tolist()
