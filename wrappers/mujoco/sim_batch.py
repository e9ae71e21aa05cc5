"""Many copies of one of Gymnasium's MuJoCo robots in NumPy: stepped, reset and saved."""

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from diffsurrogate.envs.env import State
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.external.checks import IndexedEnv
from diffsurrogate.wrappers.mujoco.robots import ROBOTS, Array, Fields

try:
    import mujoco
    from mujoco.batch import Batch
except ImportError as error:
    raise UsageError(
        "stepping many copies of a robot by one call needs MuJoCo 4.0 or newer, of the extra "
        f'mujoco: pip install "diffsurrogate[mujoco]" "mujoco>=4" ({error}); gymnasium/... ids and '
        "batched=False of mamujoco/... do without"
    ) from error


_CHANGE_NOTHING = (OrderEnforcing, PassiveEnvChecker, TimeLimit, IndexedEnv)
_CONTACT_FORCES = "cfrc_ext"
"""The one field that `mj_step` leaves to another function, which Gymnasium calls after it."""


class SimBatch:
    """Copies of a robot, whose fields are those of Gymnasium's env after the same step.

    MuJoCo's `Batch` loads each copy's state, its warm start included, steps it, and copies out the
    fields asked for: as in Gymnasium's env, those of bodies (xpos, cvel, ...) are of the last
    evaluation within the step, not of the new state. Contact forces need a copy of all that MuJoCo
    has computed, which costs 2 to 4 % of a step of the robots that feel them (Ant, the humanoids).
    """

    def __init__(
        self,
        raw: gymnasium.Env[Any, Any],
        *,
        num_envs: int,
        threads: int,
        fields: Iterable[str] = (),
    ) -> None:
        """Copy `raw`, one of Gymnasium's robots of version 5.

        `fields` are those of MuJoCo that are needed beside those of the robot's reward.

        Raises:
            UsageError: `raw` is another env, or changed by a wrapper; or threads is below 1.
        """
        if threads < 1:
            raise UsageError(f"threads is {threads}; at least 1 CPU thread is needed")
        self.raw = _robot_of(raw)
        """The raw env, unwrapped; its simulation draws resets and pictures."""
        self._robot = ROBOTS[type(self.raw)]
        self.num_envs = num_envs
        wanted = {"qpos", "qvel", *self._robot.fields, *fields}
        feels = _CONTACT_FORCES in wanted
        self._batch = Batch(self.raw.model, num_envs, threads, persistent=feels)
        self._ctrl = self._batch.bind("ctrl")
        self.fields: Fields = {
            name: self._batch.bind(name) for name in sorted(wanted - {_CONTACT_FORCES})
        }
        """By name, `(env, ...)`: views of MuJoCo's own memory."""
        self._scratch = mujoco.MjData(self.raw.model) if feels else None
        if feels:
            shape = self.raw.data.cfrc_ext.shape
            self.fields[_CONTACT_FORCES] = np.zeros((num_envs, *shape))
        self._streams: list[np.random.Generator] = []
        self._place = self._robot.place(self.raw, self.fields).copy()

    def seed(self, seed: int) -> None:
        """Give every copy its own generator, as Gymnasium's vector envs do."""
        self._streams = [seeding.np_random(own)[0] for own in env_seeds(seed, self.num_envs)]

    def reset(self, indices: NDArray[np.intp]) -> None:
        """Reset these copies, drawing from their generators as Gymnasium's env does."""
        self._batch.reset(indices, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for index in indices:
            self.raw.np_random = self._streams[index]
            self.raw.reset_model()
            self.fields["qpos"][index] = self.raw.data.qpos
            self.fields["qvel"][index] = self.raw.data.qvel
        self._batch.forward(indices)
        if _CONTACT_FORCES in self.fields:
            self.fields[_CONTACT_FORCES][indices] = 0
        self._place[indices] = self._robot.place(self.raw, self.fields)[indices]

    def step(self, action: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Advance all copies by one step of the raw env.

        Args:
            action: (env, action), of the dtype that the raw env would get.

        Returns:
            reward (env,) and terminated (env,) bool.
        """
        raw, robot, now = self.raw, self._robot, self.fields
        self._ctrl[:] = action
        self._batch.step(nstep=raw.frame_skip)
        if self._scratch is not None:
            for index, forces in enumerate(now[_CONTACT_FORCES]):
                self._batch.get_data(index, self._scratch)
                mujoco.mj_rnePostConstraint(raw.model, self._scratch)
                forces[:] = self._scratch.cfrc_ext
        before, self._place = self._place, robot.place(raw, now).copy()
        velocity = (self._place - before) / raw.dt
        healthy = robot.healthy(raw, now)
        return robot.reward(raw, now, velocity, action, healthy), robot.terminated(raw, healthy)

    def observation(self) -> Array:
        """Return what Gymnasium's env would show of every copy, `(env, obs_dim)`."""
        return self._robot.observe(self.raw, self.fields)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Draw a copy as it stands, `(height, width, 3)`."""
        raw = self.raw
        self._batch.get_data(index, raw.data)
        mujoco.mj_forward(raw.model, raw.data)
        picture: NDArray[np.uint8] = raw.mujoco_renderer.render("rgb_array")
        return picture

    def save(self) -> State:
        """Return every copy's physics, warm start included, and its generator's state."""
        return {
            "physics": torch.from_numpy(self._batch.state.copy()),
            "place": torch.from_numpy(self._place.copy()),
            "streams": [stream.bit_generator.state for stream in self._streams],
        }

    def restore(self, state: State) -> None:
        """Continue where `save` was called; fields of bodies follow at the next step."""
        self.seed(0)
        self._batch.state[:] = state["physics"].cpu().numpy()
        self._place = state["place"].cpu().numpy().copy()
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.bit_generator.state = saved


def _robot_of(raw: gymnasium.Env[Any, Any]) -> Any:
    """Return what is inside of Gymnasium's own wrappers, if it is a robot that is known."""
    while isinstance(raw, gymnasium.Wrapper):
        if not isinstance(raw, _CHANGE_NOTHING):
            raise UsageError(
                f"{type(raw).__name__} may change what the robot does, which cannot be done for "
                "all copies by one call; make the env by gymnasium/... or as_multi_agent"
            )
        raw = raw.env
    if type(raw) not in ROBOTS:
        raise UsageError(
            f"{type(raw).__name__} of {type(raw).__module__} cannot be stepped for all copies by "
            f"one call; {', '.join(sorted(kind.__name__ for kind in ROBOTS))}, all of version 5, "
            "can. Make it by gymnasium/..., one copy after another"
        )
    return raw
