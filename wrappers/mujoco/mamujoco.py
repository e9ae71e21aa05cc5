"""Multi-agent MuJoCo by id: one robot whose joints are divided among agents (MaMuJoCo).

Gymnasium-Robotics is imported here and in `mujoco_agents`; install it as the extra `mujoco`.
"""

import contextlib
import io
import re
from typing import Any

import torch
from gymnasium.error import DependencyNotInstalled

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import check_options, shortened
from diffsurrogate.wrappers.external.mujoco_warnings import quiet_mujoco

try:
    with contextlib.redirect_stderr(io.StringIO()):  # it talks about other envs when imported
        from gymnasium_robotics import mamujoco_v1
        from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    from diffsurrogate.wrappers.pettingzoo.adapter import PettingZooEnv
except (ImportError, DependencyNotInstalled, UsageError) as error:
    raise UsageError(
        "ids mamujoco/... need Gymnasium-Robotics and MuJoCo, an optional extra: pip install "
        f'"diffsurrogate[mujoco]" ({error.__cause__ or error})'
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
    """Return the robots with MaMuJoCo's partitions; `make` also accepts custom ones."""
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
    batched: bool | None = None,
    threads: int = 1,
    state: bool = False,
    **robot: Any,
) -> MultiAgentVectorEnv:
    """Make copies of a robot whose joints are divided among agents.

    Where they can, copies step together (`MaMujocoBatchEnv`): the same numbers as one after another
    (`PettingZooEnv`), in less time, and the state can be saved. They cannot with MuJoCo below 4,
    and for Reacher, whose agents see what is computed from MuJoCo's fields.

    Args:
        name: scenario and partition, agents x joints, such as "HalfCheetah-6x1", "Walker2d-6x1",
            "Ant-4x2" or "ManySegmentSwimmer-10x2"; the scenario alone with a partition of your
            own, `agent_factorization` (a dict of partition, edges and globals).
        num_envs, seed, device, differentiable: see `ExternalEnv`.
        max_steps: steps until truncation, no more than the robot's own (1000; Reacher 50, Pusher
            100); None for these.
        render_mode: "rgb_array" or None; both allow pictures where envs step together,
            and not at all otherwise.
        batched: False to step envs one after another, True to be told why they cannot step
            together; None for whichever works.
        threads: CPU threads that step envs together; the numbers do not depend on it.
        state: append what the robot would observe as a single agent.
        robot: what `mamujoco_v1.parallel_env` takes. `agent_obsk` is how many joints away an agent
            sees (1).

    Raises:
        UsageError: the name or an option is not known.
    """
    env_id = f"mamujoco/{name}"
    check_options(env_id, num_envs, differentiable, max_steps, render_mode)
    if batched is False and threads != 1:
        raise UsageError(f"threads is {threads}, but batched=False steps one copy after another")
    if robot.get("agent_obsk", 1) is None:
        raise UsageError(
            f"agent_obsk=None makes one agent of mamujoco/{name}; give the number of joints away "
            "an agent sees, or make it as one: gymnasium/HalfCheetah-v5 and the like"
        )
    scenario, _, partition = name.partition("-")
    if "agent_factorization" not in robot:
        robot |= _partition(name, scenario, partition)
    robot = {"agent_conf": "own"} | robot
    raw = _raw(name, scenario, robot)
    spec = raw.single_agent_env.spec
    own = TIME_LIMIT if spec is None else spec.max_episode_steps or TIME_LIMIT
    limit = shortened(own, max_steps)
    must = bool(batched) or threads != 1 or render_mode is not None
    if batched is not False:
        try:
            from diffsurrogate.wrappers.mujoco.mamujoco_batch import MaMujocoBatchEnv

            common: dict[str, Any] = {"max_steps": limit, "seed": seed, "device": device}
            return MaMujocoBatchEnv(raw, num_envs=num_envs, threads=threads, state=state, **common)
        except UsageError as error:
            if must:
                raise UsageError(f"{env_id} cannot step its copies together: {error}") from error
    check_options(env_id, num_envs, differentiable, max_steps, render_mode, drawable=False)
    raws = [raw, *(_raw(name, scenario, robot) for _ in range(num_envs - 1))]
    env = PettingZooEnv(raws, max_steps=limit, seed=seed, device=device, state=state)
    env.articulated = True
    return env


def _raw(name: str, scenario: str, robot: dict[str, Any]) -> Any:
    try:
        with quiet_mujoco():
            raw = mamujoco_v1.parallel_env(scenario, **robot)
    except Exception as error:  # of any kind: it raises plain ones too
        raise UsageError(
            f"mamujoco/{name} could not be made with {robot} ({error}); scenarios are "
            f"{', '.join(_JOINTS)}, {', '.join(_CHAINS)}"
        ) from error
    for seen in getattr(raw, "k_dicts", []):  # Pusher's two joints of one label lie at random
        for nodes in seen.values():
            nodes.sort(key=lambda node: (node.label, str(node.act_ids)))
    return raw


def _partition(name: str, scenario: str, partition: str) -> dict[str, Any]:
    """Return the partition of joints: MaMuJoCo's own, or its joints divided evenly."""
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
