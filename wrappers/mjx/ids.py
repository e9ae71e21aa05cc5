"""The SHAC paper's robots by id, such as `mjx/hopper`; `mjx/humanoid-muscle` stands in for one."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError, did_you_mean
from diffsurrogate.wrappers.external.adapter import not_drawn
from diffsurrogate.wrappers.external.ids import check_names, parameters_of
from diffsurrogate.wrappers.jax.adapter import JaxEnv
from diffsurrogate.wrappers.mjx.robots import Contact, Painter, load, to_mjx, touching
from diffsurrogate.wrappers.mjx.tasks import TASKS, functions


class MJXEnv(JaxEnv):
    """A robot of the SHAC paper (arXiv:2204.07137, A.3), simulated by MuJoCo MJX.

    Observations, rewards, starts, terminations and the control step of 1/60 s are the paper's; the
    robots are Gymnasium's, with their torques, and the physics is MuJoCo's instead of the authors'
    simulator, so returns of the two cannot be compared. The parts of a robot pass through each
    other. `humanoid-muscle` stands where the paper has Humanoid MTU, and is another model: the
    humanoid with two of MuJoCo's muscles for each joint.

    A copy that blows up (a number beyond 1e6, or none) shows NaN: trainers reset it and leave it
    out.
    """

    articulated = True
    render_mode = "rgb_array"
    metadata: dict[str, Any] = JaxEnv.metadata | {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(
        self,
        robot: str,
        *,
        num_envs: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        max_steps: int | None = 1000,
        substeps: int | None = None,
        stiffness: float = 1.0,
        rigid: bool = False,
    ) -> None:
        """Load the robot.

        Args:
            robot: hopper, halfcheetah, ant, humanoid or humanoid-muscle.
            num_envs: copies that step together; each other number is compiled for.
            seed: of the start states.
            device: of all tensors; JAX computes there.
            differentiable: keep the graph of dynamics and reward.
            max_steps: steps after which an episode is truncated; the paper's 1000.
            substeps: of a control step, and of its gradient: their cost is proportional to it. None
                for the robot's own.
            stiffness, rigid: of contacts, see `Contact`; other values need no new compilation.

        Raises:
            UsageError: an option is out of range.
        """
        task = TASKS[robot]
        count = task.substeps if substeps is None else substeps
        contact = Contact(stiffness=stiffness, rigid=rigid)
        model = load(task.file, count, contact, muscles=task.muscles)
        reset, step = functions(robot, count)
        self.robot = robot
        """hopper, halfcheetah, ant, humanoid or humanoid-muscle."""
        self.model = model
        """The `mujoco.MjModel`."""
        super().__init__(
            reset,
            step,
            act_dim=model.nu,
            num_envs=num_envs,
            params=to_mjx(model),
            seed=seed,
            device=device,
            differentiable=differentiable,
            max_steps=max_steps,
        )
        self.agents = [robot]
        self._painter = Painter(model)

    def render(self, env_indices: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Draw robots as they stand.

        Args:
            env_indices: which envs; None for all.

        Returns:
            one frame `(height, width, 3)` uint8 per env.

        Raises:
            UsageError: the envs were not reset, or OpenGL is missing.
        """
        _ = self.current_obs
        places = np.asarray(self.raw_state["qpos"])
        indices = range(self.num_envs) if env_indices is None else env_indices
        try:
            return tuple(self._painter.picture(places[index]) for index in indices)
        except Exception as error:  # of several kinds, by what of OpenGL is missing
            raise not_drawn(error) from error

    def close_extras(self, **kwargs: Any) -> None:
        """Close the renderer."""
        self._painter.close()

    def contacts(self) -> Tensor:
        """(env,) bool: the robot touches the floor, or is within the margin of its contacts."""
        poses = np.asarray(self.raw_state["qpos"])
        return torch.tensor(touching(self.model, poses), device=self.device)


def ids() -> list[str]:
    """Return the names of the robots."""
    return list(TASKS)


def make(name: str, **options: Any) -> MultiAgentVectorEnv:
    """Make `mjx/<name>`.

    Raises:
        UsageError: there is no such robot, or it does not take an option.
    """
    if name not in TASKS:
        raise UsageError(
            f"unknown env mjx/{name}; known: {', '.join(TASKS)}{did_you_mean(name, TASKS)}"
        )
    check_names(f"mjx/{name}", options, parameters_of(MJXEnv))
    return MJXEnv(name, **options)
