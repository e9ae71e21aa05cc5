"""Multi-agent MuJoCo by id: one robot whose joints are shared out among agents (MaMuJoCo).

Gymnasium-Robotics is imported here only; install it as the extra `mujoco`.
"""

import contextlib
import io
import re
from typing import Any

import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.mujoco_warnings import quiet_mujoco
from diffsurrogate.wrappers.raw_env import check_options

try:
    with contextlib.redirect_stderr(io.StringIO()):  # it talks about other envs when imported
        from gymnasium_robotics import mamujoco_v1
        from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    from diffsurrogate.wrappers.pettingzoo import PettingZooEnv
except (ImportError, UsageError) as error:
    raise UsageError(
        "ids mamujoco/... need Gymnasium-Robotics and MuJoCo, an optional extra: pip install "
        f'"diffsurrogate[mujoco]" ({error})'
    ) from error

TIME_LIMIT = 1000
"""Steps after which MaMuJoCo truncates a robot that Gymnasium gives no limit."""
_JOINTS = {
    "HalfCheetah": ("6x1", "2x3"),
    "Ant": ("4x2", "2x4", "2x4d"),
    "Walker2d": ("2x3",),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "Reacher": ("2x1",),
    "Swimmer": ("2x1",),
    "Pusher": ("3p",),
}
"""MaMuJoCo's own partitions."""
_CHAINS = ("ManySegmentSwimmer", "ManySegmentAnt", "CoupledHalfCheetah")
"""Robots that MaMuJoCo builds by their partition."""


def ids() -> list[str]:
    """Return the robots with MaMuJoCo's own partitions; other ways to share out are known too."""
    return [f"{robot}-{partition}" for robot, own in _JOINTS.items() for partition in own]


def make(
    name: str,
    *,
    num_envs: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = None,
    render_mode: str | None = None,
    **robot: Any,
) -> PettingZooEnv:
    """Make copies of a robot whose joints are shared out among agents.

    Args:
        name: scenario and partition, agents x joints, such as "HalfCheetah-6x1", "Walker2d-6x1",
            "Ant-4x2" or "ManySegmentSwimmer-10x2"; the scenario alone with a partition of your
            own, `agent_factorization` (a dict of partition, edges and globals).
        num_envs: copies, stepped one after another.
        seed: of the first reset without one.
        device: where the tensors live; MuJoCo computes on the CPU.
        differentiable: must be False.
        max_steps: steps until truncation, if fewer than the robot's own (1000; Reacher 50, Pusher
            100).
        render_mode: must be None: these envs cannot be drawn here yet.
        robot: what `mamujoco_v1.parallel_env` takes. `agent_obsk` is how many joints away an agent
            sees (1).

    Raises:
        UsageError: the name or an option is not known.
    """
    env_id = f"mamujoco/{name}"
    check_options(env_id, num_envs, differentiable, max_steps, render_mode, drawable=False)
    if robot.get("agent_obsk", 1) is None:
        raise UsageError(
            f"agent_obsk=None makes one agent of mamujoco/{name}; give the number of joints away "
            "an agent sees, or make it as one: gymnasium/HalfCheetah-v5 and the like"
        )
    scenario, _, partition = name.partition("-")
    if "agent_factorization" not in robot:
        robot |= _partition(name, scenario, partition)
    try:
        with quiet_mujoco():
            raws = [
                mamujoco_v1.parallel_env(scenario, **({"agent_conf": "own"} | robot))
                for _ in range(num_envs)
            ]
    except Exception as error:  # of any kind: it raises plain ones too
        raise UsageError(
            f"mamujoco/{name} could not be made with {robot} ({error}); scenarios are "
            f"{', '.join(_JOINTS)}, {', '.join(_CHAINS)}"
        ) from error
    spec = raws[0].single_agent_env.spec
    own = TIME_LIMIT if spec is None else spec.max_episode_steps or TIME_LIMIT
    limit = min(max_steps or own, own)
    return PettingZooEnv(raws, max_steps=limit, seed=seed, device=device)


def _partition(name: str, scenario: str, partition: str) -> dict[str, Any]:
    """Return which joints are whose: MaMuJoCo's own partition, or its joints shared out anew."""
    chain = scenario in _CHAINS and re.fullmatch(r"\d+[xp]\d+", partition)
    if chain or partition in _JOINTS.get(scenario, ()):
        return {"agent_conf": partition}
    known = ", ".join(f"{scenario}-{one}" for one in _JOINTS.get(scenario, ()))
    shape = re.fullmatch(r"(\d+)x(\d+)", partition)
    if shape is None or not known:
        raise UsageError(
            f"mamujoco/{name} is not known; give a scenario ({', '.join(_JOINTS)}, "
            f"{', '.join(_CHAINS)}) and a partition, agents x joints, such as "
            f"{known or 'HalfCheetah-6x1'}, or your own by agent_factorization="
        )
    parts, edges, others = get_parts_and_edges(scenario, _JOINTS[scenario][0])
    joints = [joint for part in parts for joint in part]
    agents, each = map(int, shape.groups())
    if agents * each != len(joints):
        raise UsageError(
            f"mamujoco/{name} shares out {agents} x {each} joints, but {scenario} has "
            f"{len(joints)}; known are {known}"
        )
    shares = [tuple(joints[i * each : (i + 1) * each]) for i in range(agents)]
    return {"agent_factorization": {"partition": shares, "edges": edges, "globals": others}}
