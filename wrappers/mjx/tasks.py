"""The robots' tasks in the SHAC paper (arXiv:2204.07137, A.3): starts, observations and rewards.

Functions of one copy, in JAX; `q` and `v` are MuJoCo's qpos and qvel, `last` is the action before,
or the activations that muscles have.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from diffsurrogate.wrappers.jax.library import jax, jnp
from diffsurrogate.wrappers.mjx.robots import physics

Array = Any
TOO_FAR = 1e6
"""Positions and velocities beyond it count as not finite: the simulation blew up."""


class Task(ABC):
    """What a robot starts from, sees and earns."""

    file: ClassVar[str]
    """Of Gymnasium's robots."""
    substeps: ClassVar[int]
    """Of a control step."""
    shows_action = False
    """Whether observations end with the last action."""
    muscles = False
    """Whether two muscles replace each motor."""

    @abstractmethod
    def start(self, key: Array, rest: Array, size: int) -> tuple[Array, Array]:
        """Draw q and v around the model's own pose; `size` is the number of velocities."""

    @abstractmethod
    def observe(self, q: Array, v: Array, last: Array) -> Array:
        """Return what the policy sees."""

    @abstractmethod
    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Return the reward of a step that led to q and v."""

    def fallen(self, q: Array) -> Array:
        """Return whether the episode ends."""
        return jnp.asarray(False)

    def control(self, action: Array, most: Array) -> Array:
        """Return what the actuators are told, of which `most` is the greatest."""
        return action * most  # motors turn both ways


def _noise(key: Array, size: int, most: float) -> Array:
    return jax.random.uniform(key, (size,), minval=-most, maxval=most)


def _squared(action: Array) -> Array:
    return jnp.square(action).sum()


class _Planar(Task):
    """A robot in a plane: x, height, angle, joints, of which all but x are seen."""

    pose_noise: ClassVar[float]
    speed_noise: ClassVar[float]
    lift = 0.0
    """Height at which the robot's own pose stands, taken as 0."""

    def start(self, key: Array, rest: Array, size: int) -> tuple[Array, Array]:
        """Draw all coordinates and speeds uniformly."""
        pose, speed = jax.random.split(key)
        q = rest + _noise(pose, len(rest), self.pose_noise)
        return q, _noise(speed, size, self.speed_noise)

    def observe(self, q: Array, v: Array, last: Array) -> Array:
        """Return height, angle and joints (tables 7 and 8), then their speeds and that of x."""
        return jnp.concatenate([q[1:2] - self.lift, q[2:], v])


class HalfCheetah(_Planar):
    """Two legs in a plane, which run; never ends early."""

    file, substeps = "half_cheetah.xml", 4
    pose_noise, speed_noise = 0.1, 0.25

    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Equation 14."""
        return v[0] - 0.1 * _squared(action)


class Hopper(_Planar):
    """One leg in a plane, which hops forward; ends when it falls 0.45 m."""

    file, substeps = "hopper.xml", 8
    pose_noise, speed_noise = 0.05, 0.05
    lift = 1.25

    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Equations 15 to 18."""
        above = jnp.clip(q[1] - self.lift + 0.3, -1, 0.3)
        height = jnp.where(above < 0, -200 * jnp.square(above), above)
        upright = 1 - jnp.square(q[2] / math.radians(30))
        return v[0] + height + upright - 0.1 * _squared(action)

    def fallen(self, q: Array) -> Array:
        """Return whether it is 0.45 m below its start."""
        return q[1] - self.lift < -0.45


class _Walker(Task):
    """A robot with a free torso: place, quaternion, joints."""

    shows_action = True
    height: ClassVar[float]
    """Of the torso at the start, in metres."""
    lowest: ClassVar[float]
    """Height of the torso at which the episode ends."""
    joints: ClassVar[tuple[float, ...] | None] = None
    """Where they start; None for the model's own pose."""

    def start(self, key: Array, rest: Array, size: int) -> tuple[Array, Array]:
        """Draw place (0.1 m), rotation (7.5° about any axis), joints (0.2 rad), speeds (0.25)."""
        keys = jax.random.split(key, 5)
        place = jnp.asarray([0.0, 0.0, self.height]) + _noise(keys[0], 3, 0.1)
        half = _noise(keys[1], 1, math.pi / 24) / 2
        axis = jax.random.normal(keys[2], (3,))
        axis = axis / jnp.linalg.norm(axis)
        rotation = jnp.concatenate([jnp.cos(half), jnp.sin(half) * axis])
        joints = rest[7:] if self.joints is None else jnp.asarray(self.joints)
        joints = joints + _noise(keys[3], len(rest) - 7, 0.2)
        return jnp.concatenate([place, rotation, joints]), _noise(keys[4], size, 0.25)

    def observe(self, q: Array, v: Array, last: Array) -> Array:
        """Return height, quaternion, v, joints' angles and speeds, up, heading and the last action.

        Tables 9 and 10. Angular velocity is the torso's, in its own axes.
        """
        up, heading = self.directions(q)
        seen = [q[2:3], q[3:7], v[:6], q[7:], v[6:], up[None], heading[None], last]
        return jnp.concatenate(seen)

    def directions(self, q: Array) -> tuple[Array, Array]:
        """Return how far the torso's own up points upwards, and its own forward along x."""
        _, x, y, z = q[3:7] / jnp.linalg.norm(q[3:7])
        return 1 - 2 * (x * x + y * y), 1 - 2 * (y * y + z * z)

    def fallen(self, q: Array) -> Array:
        """Return whether the torso is too low."""
        return q[2] < self.lowest


class Ant(_Walker):
    """Four legs, which run along x."""

    file, substeps = "ant.xml", 4
    height, lowest = 0.75, 0.27
    joints = (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)

    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Equation 19."""
        up, heading = self.directions(q)
        return v[0] + 0.1 * up + heading + q[2] - self.lowest


class Humanoid(_Walker):
    """Two legs and two arms, which run along x.

    Gymnasium's has 17 joints, the paper's 21: observations are 64 instead of 76 numbers.
    """

    file, substeps = "humanoid.xml", 5
    height, lowest = 1.4, 0.74

    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Equations 20 to 22."""
        up, heading = self.directions(q)
        above = jnp.clip(q[2] - 0.84, -1, 0.1)
        height = jnp.where(above < 0, -200 * jnp.square(above), 10 * above)
        return v[0] + 0.1 * up + heading + height - 0.002 * _squared(action)


class HumanoidMuscle(Humanoid):
    """Two legs and two arms, moved by 34 muscles, which run along x.

    Not the paper's Humanoid MTU, whose model is not to be had: that is a lower body with 152
    muscles, and the heights are its pelvis's. Observations end with the muscles' activations,
    which the paper's (table 11) leave out, in place of the last action.
    """

    shows_action, muscles = False, True

    def control(self, action: Array, most: Array) -> Array:
        """Return the muscles' excitations, from none at -1 to `most`."""
        return (1 + action) / 2 * most

    def reward(self, q: Array, v: Array, action: Array) -> Array:
        """Equations 23 to 25, with the torso's heights of equation 22; a is the excitation."""
        up, heading = self.directions(q)
        above = jnp.clip(q[2] - 0.84, -1, 0.05)
        height = jnp.where(above < 0, -200 * jnp.square(above), 4 * above)
        effort = _squared(self.control(action, jnp.ones(())))
        return v[0] + 0.1 * up + heading + height - 0.001 * effort


TASKS: dict[str, Task] = {
    "hopper": Hopper(),
    "halfcheetah": HalfCheetah(),
    "ant": Ant(),
    "humanoid": Humanoid(),
    "humanoid-muscle": HumanoidMuscle(),
}


@functools.cache
def functions(name: str, substeps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `reset` and `step` of a task, always the same two, so that they compile once.

    Their last argument is MJX's model.
    """
    task = TASKS[name]
    simulate = physics(task.file, substeps, task.muscles)

    def reset(key: Array, model: Any) -> tuple[dict[str, Array], Array]:
        q, v = task.start(key, model.qpos0, model.nv)
        state = {"qpos": q, "qvel": v, "qacc_warmstart": jnp.zeros(model.nv)}
        last = jnp.zeros(model.nu)
        if task.shows_action:
            state["action"] = last
        if task.muscles:
            state["act"] = last
        return state, task.observe(q, v, last)

    def step(state: dict[str, Array], action: Array, model: Any) -> tuple[Any, ...]:
        ctrl = task.control(action, model.actuator_ctrlrange[:, 1])
        before = {name: leaf for name, leaf in state.items() if name != "action"}
        after = simulate(before, ctrl, model)
        q, v, warmstart = after["qpos"], after["qvel"], after["qacc_warmstart"]
        if task.shows_action:
            after["action"] = action
        whole = jnp.concatenate([q, v, warmstart * 1e-6])
        sound = (jnp.abs(whole) < TOO_FAR).all()  # of NaN, False
        last = after["act"] if task.muscles else action
        obs = jnp.where(sound, task.observe(q, v, last), jnp.nan)
        return after, obs, task.reward(q, v, action), task.fallen(q)

    return reset, step
