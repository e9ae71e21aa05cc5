"""What Gymnasium's MuJoCo robots observe, earn and survive, for many copies at once.

Each function is that of the class in `gymnasium.envs.mujoco`, with an env axis in front; weights,
ranges and switches are read from the raw env. Arrays are float64, actions as the raw env gets them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from diffsurrogate.errors import UsageError

try:
    from gymnasium.envs.mujoco.ant_v5 import AntEnv
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
    from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
    from gymnasium.envs.mujoco.humanoidstandup_v5 import HumanoidStandupEnv
    from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
    from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
    from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
    from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
    from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
except (ImportError, DependencyNotInstalled) as error:
    raise UsageError(
        "ids mujoco/... need MuJoCo and Gymnasium 1.0 or newer, an optional extra: pip install "
        f'"diffsurrogate[mujoco]" ({error.__cause__ or error})'
    ) from error


Array = NDArray[Any]
Fields = dict[str, Array]
"""MuJoCo's fields by name, with an env axis in front: qpos (env, nq), xpos (env, body, 3), ..."""


@dataclass(frozen=True, kw_only=True)
class Robot:
    """What one class of robots is made of; `raw` is an unwrapped env of that class."""

    observe: Callable[[Any, Fields], Array]
    """Observation `(env, obs_dim)`, of `raw` and the fields."""
    reward: Callable[[Any, Fields, Array, Array, Array], Array]
    """Reward `(env,)`, of `raw`, the fields after the step, the velocity of `place`, the action
    `(env, action)` and whether the robot is healthy."""
    healthy: Callable[[Any, Fields], Array] = lambda raw, now: np.ones(len(now["qpos"]), dtype=bool)
    """Who has not fallen, `(env,)` bool."""
    place: Callable[[Any, Fields], Array] = lambda raw, now: np.zeros((len(now["qpos"]), 0))
    """The point whose velocity is rewarded, `(env, axis)`."""
    fields: tuple[str, ...] = ()
    """Fields that are needed beside qpos and qvel."""

    def terminated(self, raw: Any, healthy: Array) -> Array:
        """Return which episodes end by falling, `(env,)` bool; some robots can be told to go on."""
        return ~healthy & getattr(raw, "_terminate_when_unhealthy", True)


# --- what several robots have in common -----------------------------------------------------------


def _positions_and_velocities(raw: Any, now: Fields) -> Array:
    skipped = raw.observation_structure.get("skipped_qpos", 0)
    return np.concatenate([now["qpos"][:, skipped:], now["qvel"]], axis=1)


def _with_velocities_clipped(raw: Any, now: Fields) -> Array:
    return _positions_and_velocities(raw, now | {"qvel": np.clip(now["qvel"], -10, 10)})


def _bodies(field: Array) -> Array:
    """Return a field of bodies as rows, without the world's."""
    return field[:, 1:].reshape(len(field), -1)


def _sum_of_squares(rows: Array) -> Array:
    return np.square(rows).reshape(len(rows), -1).sum(axis=1)


def _between(value: Array, low: float, high: float) -> Array:
    return (low < value) & (value < high)


def _is_finite(now: Fields) -> Array:
    finite = np.isfinite(np.concatenate([now["qpos"], now["qvel"]], axis=1))
    return np.logical_and.reduce(finite, axis=1)


def _distance(now: Fields, raw: Any, one: str, other: str) -> Array:
    return np.linalg.norm(_body(raw, now, one) - _body(raw, now, other), axis=1)


def _body(raw: Any, now: Fields, name: str | int) -> Array:
    return now["xpos"][:, raw.model.body(name).id]


# --- robot by robot -------------------------------------------------------------------------------


def _runner_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    forward: Array = raw._forward_reward_weight * velocity[:, 0]
    return forward - raw._ctrl_cost_weight * _sum_of_squares(action)


def _upright_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    gain = raw._forward_reward_weight * velocity[:, 0] + healthy * raw._healthy_reward
    return gain - raw._ctrl_cost_weight * _sum_of_squares(action)


def _hopper_is_healthy(raw: Any, now: Fields) -> Array:
    state = np.concatenate([now["qpos"], now["qvel"]], axis=1)[:, 2:]
    return _between(state, *raw._healthy_state_range).all(axis=1) & _walker_is_healthy(raw, now)


def _walker_is_healthy(raw: Any, now: Fields) -> Array:
    upright = _between(now["qpos"][:, 2], *raw._healthy_angle_range)
    return _between(now["qpos"][:, 1], *raw._healthy_z_range) & upright


def _ant_contact_forces(raw: Any, now: Fields) -> Array:
    return np.clip(now["cfrc_ext"], *raw._contact_force_range)


def _ant_obs(raw: Any, now: Fields) -> Array:
    rows = _positions_and_velocities(raw, now)
    if not raw._include_cfrc_ext_in_observation:
        return rows
    return np.concatenate([rows, _bodies(_ant_contact_forces(raw, now))], axis=1)


def _ant_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    gain = velocity[:, 0] * raw._forward_reward_weight + healthy * raw._healthy_reward
    contact = raw._contact_cost_weight * _sum_of_squares(_ant_contact_forces(raw, now))
    cost: Array = raw._ctrl_cost_weight * _sum_of_squares(action) + contact
    return gain - cost


def _ant_is_healthy(raw: Any, now: Fields) -> Array:
    low, high = raw._healthy_z_range
    height = now["qpos"][:, 2]
    return _is_finite(now) & (low <= height) & (height <= high)


def _humanoid_obs(raw: Any, now: Fields) -> Array:
    shown = [name for name in _CONTACTS if getattr(raw, f"_include_{name}_in_observation") is True]
    parts = [now[k][:, 6:] if k == "qfrc_actuator" else _bodies(now[k]) for k in shown]
    return np.concatenate([_positions_and_velocities(raw, now), *parts], axis=1)


def _humanoid_reward(
    raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array
) -> Array:
    gain = raw._forward_reward_weight * velocity[:, 0] + healthy * raw._healthy_reward
    contact = raw._contact_cost_weight * _sum_of_squares(now["cfrc_ext"])
    control = raw._ctrl_cost_weight * _sum_of_squares(action.astype(np.float64))
    cost: Array = control + np.clip(contact, *raw._contact_cost_range)
    return gain - cost


def _centre_of_mass(raw: Any, now: Fields) -> Array:
    mass = raw.model.body_mass
    return (np.einsum("b,ebj->ej", mass, now["xipos"]) / mass.sum())[:, :2]


def _standup_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    height = now["qpos"][:, 2] / raw.model.opt.timestep
    control = raw._ctrl_cost_weight * _sum_of_squares(action.astype(np.float64))
    impact = np.clip(
        raw._impact_cost_weight * _sum_of_squares(now["cfrc_ext"]), *raw._impact_cost_range
    )
    return height - control - impact + 1


def _pendulum_is_up(raw: Any, now: Fields) -> Array:
    return _is_finite(now) & (np.abs(now["qpos"][:, 1]) <= 0.2)


def _double_pendulum_obs(raw: Any, now: Fields) -> Array:
    angles = np.ascontiguousarray(now["qpos"][:, 1:])
    parts = [
        now["qpos"][:, :1],
        np.sin(angles),
        np.cos(angles),
        np.clip(now["qvel"], -10, 10),
        np.clip(now["qfrc_constraint"], -10, 10)[:, :1],
    ]
    return np.concatenate(parts, axis=1)


def _double_pendulum_reward(
    raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array
) -> Array:
    tip, spin = now["site_xpos"][:, 0], np.square(now["qvel"][:, 1:3])
    off = 0.01 * np.square(tip[:, 0]) + np.square(tip[:, 2] - 2)
    fast = 1e-3 * spin[:, 0] + 5e-3 * spin[:, 1]
    return raw._healthy_reward * healthy.astype(np.int64) - off - fast


def _reacher_obs(raw: Any, now: Fields) -> Array:
    arm = np.ascontiguousarray(now["qpos"][:, :2])
    apart = _body(raw, now, "fingertip") - _body(raw, now, "target")
    parts = [np.cos(arm), np.sin(arm), now["qpos"][:, 2:], now["qvel"][:, :2], apart[:, :2]]
    return np.concatenate(parts, axis=1)


def _reacher_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    apart = -_distance(now, raw, "fingertip", "target") * raw._reward_dist_weight
    cost: Array = -_sum_of_squares(action) * raw._reward_control_weight
    return apart + cost


def _pusher_obs(raw: Any, now: Fields) -> Array:
    parts = [now["qpos"][:, :7], now["qvel"][:, :7]]
    parts += [_body(raw, now, name) for name in ("tips_arm", "object", "goal")]
    return np.concatenate(parts, axis=1)


def _pusher_reward(raw: Any, now: Fields, velocity: Array, action: Array, healthy: Array) -> Array:
    near = -_distance(now, raw, "object", "tips_arm") * raw._reward_near_weight
    apart = -_distance(now, raw, "object", "goal") * raw._reward_dist_weight
    cost: Array = -_sum_of_squares(action) * raw._reward_control_weight
    return apart + cost + near


def _x(raw: Any, now: Fields) -> Array:
    return now["qpos"][:, :1]


_CONTACTS = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
ROBOTS: dict[type, Robot] = {
    AntEnv: Robot(
        observe=_ant_obs,
        reward=_ant_reward,
        healthy=_ant_is_healthy,
        place=lambda raw, now: _body(raw, now, raw._main_body)[:, :2],
        fields=("xpos", "cfrc_ext"),
    ),
    HalfCheetahEnv: Robot(observe=_positions_and_velocities, reward=_runner_reward, place=_x),
    HopperEnv: Robot(
        observe=_with_velocities_clipped,
        reward=_upright_reward,
        healthy=_hopper_is_healthy,
        place=_x,
    ),
    HumanoidEnv: Robot(
        observe=_humanoid_obs,
        reward=_humanoid_reward,
        healthy=lambda raw, now: _between(now["qpos"][:, 2], *raw._healthy_z_range),
        place=_centre_of_mass,
        fields=(*_CONTACTS, "xipos"),
    ),
    HumanoidStandupEnv: Robot(observe=_humanoid_obs, reward=_standup_reward, fields=_CONTACTS),
    InvertedDoublePendulumEnv: Robot(
        observe=_double_pendulum_obs,
        reward=_double_pendulum_reward,
        healthy=lambda raw, now: ~(now["site_xpos"][:, 0, 2] <= 1),
        fields=("site_xpos", "qfrc_constraint"),
    ),
    InvertedPendulumEnv: Robot(
        observe=_positions_and_velocities,
        reward=lambda raw, now, velocity, action, healthy: healthy.astype(np.float64),
        healthy=_pendulum_is_up,
    ),
    PusherEnv: Robot(observe=_pusher_obs, reward=_pusher_reward, fields=("xpos",)),
    ReacherEnv: Robot(observe=_reacher_obs, reward=_reacher_reward, fields=("xpos",)),
    SwimmerEnv: Robot(observe=_positions_and_velocities, reward=_runner_reward, place=_x),
    Walker2dEnv: Robot(
        observe=_with_velocities_clipped,
        reward=_upright_reward,
        healthy=_walker_is_healthy,
        place=_x,
    ),
}
"""By the class of the raw env."""
