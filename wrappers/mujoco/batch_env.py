"""Gymnasium's MuJoCo robots by id, all copies stepped by one call (ids `mujoco/HalfCheetah-v5`)."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import State
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import ExternalEnv, check_options, not_drawn
from diffsurrogate.wrappers.external.spaces import action_box, observation_box
from diffsurrogate.wrappers.gymnasium.ids import make as make_one_by_one
from diffsurrogate.wrappers.mujoco.robots import ROBOTS
from diffsurrogate.wrappers.mujoco.sim_batch import SimBatch


class BatchEnv(ExternalEnv):
    """Copies of a robot that step together, for one agent or several; see `MujocoBatchEnv`."""

    articulated = True

    library = "MuJoCo"

    def __init__(
        self,
        sim: SimBatch,
        *,
        agents: Sequence[str],
        observation_space: spaces.Box,
        action_space: spaces.Box,
        max_steps: int | None,
        seed: int,
        device: torch.device | str,
    ) -> None:
        """Take over `sim`; spaces are boxes (agent, obs_dim) and (agent, act_dim)."""
        super().__init__(
            num_envs=sim.num_envs,
            agents=agents,
            observation_space=observation_space,
            action_space=action_space,
            limits=(),
            max_steps=max_steps,
            seed=seed,
            device=device,
        )
        self._sim = sim
        self._step_checks.name = type(sim.raw).__name__
        self.render_mode = "rgb_array"
        self.metadata = sim.raw.metadata | {
            "autoreset_mode": AutoresetMode.SAME_STEP,
            "render_modes": ["rgb_array"],
        }

    def _why_not_copied(self) -> str:
        return "MuJoCo's batches of simulations have no copies"

    def _pictures(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], ...]:
        _ = self.current_obs
        try:
            return tuple(self._sim.picture(index) for index in indices)
        except ImportError as error:  # of what loads OpenGL
            raise not_drawn(error) from error

    def close_extras(self, **kwargs: Any) -> None:
        """Close the renderer."""
        self._sim.raw.close()

    # --- what differs between one agent and several -----------------------------------------------

    def _rows(self) -> NDArray[Any]:
        """Return every agent's observation, `(env, agent, obs_dim)` float64."""
        raise NotImplementedError

    def _forces(self, action: NDArray[np.float32]) -> NDArray[Any]:
        """Return the robot's action `(env, action)` for `action` (env, agent, act_dim)."""
        raise NotImplementedError

    # --- the env protocol -------------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed = self._seed_of_reset(seed)
        if seed is not None:
            self._sim.seed(seed)
        self._sim.reset(np.arange(self.num_envs))
        return self._observe()

    def _reset_where(self, mask: Tensor) -> Tensor:
        self._sim.reset(np.flatnonzero(mask.cpu().numpy()))
        return self._observe()

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward, terminated = self._sim.step(self._forces(action.detach().cpu().numpy()))
        return (
            self._observe(),
            self._shared(torch.from_numpy(reward).float().unsqueeze(1)),
            torch.from_numpy(terminated).to(self.device),
        )

    def _save(self) -> State:
        return self._sim.save()

    def _restore(self, state: State) -> None:
        self._seed = None
        self._sim.restore(state)

    def _observe(self) -> Tensor:
        return torch.from_numpy(self._rows()).float().to(self.device)


class MujocoBatchEnv(BatchEnv):
    """Copies of one of Gymnasium's MuJoCo robots that share a model and step together.

    Observations, rewards, ends and resets are those of `gymnasium/...` with the same seed and
    actions, to the last bit of float32: MuJoCo steps every copy as it would step it alone, warm
    start included, and each copy draws its resets from its own generator. `threads` changes
    no number. The raw env is made once, for its model, weights, ranges and resets; what a robot
    observes, earns and survives is computed for all copies at once (`mujoco_robots`).

    The state can be saved, generators included: a training run that is resumed goes on exactly.

    Example:
        >>> from diffsurrogate import make
        >>> env = make("mujoco/HalfCheetah-v5", num_envs=64, threads=2)
        >>> obs, _ = env.reset(seed=0)
        >>> obs.shape
        torch.Size([64, 1, 17])
    """

    def __init__(
        self,
        raw: gymnasium.Env[Any, Any],
        *,
        num_envs: int = 64,
        threads: int = 1,
        max_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Copy `raw`, which must not be used directly from now on.

        Args:
            raw: one of Gymnasium's robots, version 5.
            num_envs, seed, device: see `ExternalEnv`.
            threads: CPU threads that step them; the numbers do not depend on it.
            max_steps: steps until truncation; None for the time limit of `raw`, if it has one.

        Raises:
            UsageError: `raw` is another env, or changed by a wrapper; or a number is below 1.
        """
        check_options(type(raw.unwrapped).__name__, num_envs, False, max_steps, None)
        limit = None if raw.spec is None else raw.spec.max_episode_steps
        super().__init__(
            SimBatch(raw, num_envs=num_envs, threads=threads),
            agents=["agent"],
            observation_space=observation_box(raw.observation_space),
            action_space=action_box(raw.action_space),
            max_steps=max_steps or limit,
            seed=seed,
            device=device,
        )

    def _rows(self) -> NDArray[Any]:
        return self._sim.observation()[:, None]

    def _forces(self, action: NDArray[np.float32]) -> NDArray[Any]:
        return action[:, 0]


def make(
    name: str,
    *,
    num_envs: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = None,
    render_mode: str | None = None,
    threads: int = 1,
    **robot: Any,
) -> MujocoBatchEnv:
    """Make copies of one of Gymnasium's MuJoCo robots, stepped by one call.

    Args:
        name: Gymnasium's id, such as "HalfCheetah-v5".
        num_envs, seed, device, differentiable: see `ExternalEnv`.
        max_steps: steps until truncation; None for the robot's own (1000; Reacher 50, Pusher 100).
        render_mode: "rgb_array" or None; both allow pictures.
        threads: CPU threads that step the robots; the numbers do not depend on it.
        robot: Gymnasium's own options of the robot, such as `reset_noise_scale`.

    Raises:
        UsageError: the id or an option is not known, or a package is missing or too old.
    """
    check_options(f"mujoco/{name}", num_envs, differentiable, max_steps, render_mode)
    if name not in gymnasium.registry:
        close = difflib.get_close_matches(name, ids(), n=3) or ids()
        raise UsageError(f"unknown env mujoco/{name}; there are {', '.join(close)}")
    made: Any = make_one_by_one(name, num_envs=1, max_steps=max_steps, **robot)
    return MujocoBatchEnv(
        made.raw.unwrapped.envs[0],
        num_envs=num_envs,
        threads=threads,
        max_steps=max_steps,
        seed=seed,
        device=device,
    )


def ids() -> list[str]:
    """Return Gymnasium's ids of the robots that step as a batch."""
    known = {f"{kind.__module__}:{kind.__name__}" for kind in ROBOTS}
    return [spec.id for spec in gymnasium.registry.values() if spec.entry_point in known]
