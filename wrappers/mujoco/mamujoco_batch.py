"""MaMuJoCo's agents on copies of a robot that step together: `mamujoco/...` with `batched`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs
from numpy.typing import NDArray

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.agent_rows import Layout
from diffsurrogate.wrappers.mujoco.batch_env import BatchEnv
from diffsurrogate.wrappers.mujoco.robots import Array, Fields
from diffsurrogate.wrappers.mujoco.sim_batch import SimBatch

_FIELDS = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "xpos")
"""What an agent may see entries of."""
_BEYOND = 1e9
"""Larger than any range that observations are clipped to."""


@dataclass(frozen=True)
class Excerpt:
    """Entries of a vector, each clipped to its own range."""

    entries: NDArray[np.intp]
    low: Array
    high: Array

    def of(self, rows: Array) -> Array:
        """Return the excerpt `(env, size)` of `rows` (env, entry)."""
        return np.clip(rows[:, self.entries], self.low, self.high)


def excerpt(function: Callable[[Array], Array], size: int) -> Excerpt | None:
    """Return which entries of a float64 vector of `size` a function returns, and how it clips them.

    The ranges hold -0.5 and 0.5.

    Returns:
        None where the function does anything else, as far as vectors drawn at random can tell.
    """
    marks = np.linspace(-0.5, 0.5, size)
    marked = function(marks)
    entries = np.searchsorted(marks, marked).clip(0, size - 1)
    low, high = function(np.full(size, -_BEYOND)), function(np.full(size, _BEYOND))
    if not len(entries) == len(low) == len(high):
        return None
    low, high = np.where(low == -_BEYOND, -np.inf, low), np.where(high == _BEYOND, np.inf, high)
    found = Excerpt(entries, low, high)
    trials = np.concatenate([marks[None], np.random.default_rng(0).normal(0, 10, (5, size))])
    same = all(np.array_equal(function(row), found.of(row[None])[0]) for row in trials)
    return found if same else None


class MaMujocoBatchEnv(BatchEnv):
    """MaMuJoCo's robots, whose joints are divided among agents, with copies that step together.

    Observations, rewards, ends and resets are those of MaMuJoCo's own envs with the same seed and
    actions, to the last bit of float32. What an agent sees is read off MaMuJoCo's function by
    trying it out: entries of MuJoCo's fields, each clipped to a range.

    The state can be saved: a training run that is resumed goes on exactly.
    """

    def __init__(
        self,
        raw: Any,
        *,
        num_envs: int,
        threads: int,
        max_steps: int | None,
        seed: int,
        device: torch.device | str,
        state: bool = False,
    ) -> None:
        """Take over `raw`, what `mamujoco_v1.parallel_env` returned.

        `state` appends what the robot would observe as a single agent; see `ExternalEnv`.

        Raises:
            UsageError: the robot is not known, an agent sees something else than entries of
                MuJoCo's fields, or not every force is one agent's.
        """
        whole = raw.single_agent_env.observation_space.shape[0]
        layout = Layout(raw, state_size=whole if state else 0)
        self._sizes = layout.observation_sizes
        self._acts = [[node.act_ids for node in part] for part in raw.agent_action_partitions]
        forces = raw.single_agent_env.action_space.shape[0]
        if sorted(act for own in self._acts for act in own) != list(range(forces)):
            raise UsageError(
                f"the {forces} forces of the robot must each be one agent's, but the partition "
                f"gives out {self._acts}; mend agent_factorization"
            )
        self._views, seen = _views(raw)
        self._seen = seen
        super().__init__(
            SimBatch(raw.single_agent_env, num_envs=num_envs, threads=threads, fields=seen),
            agents=layout.names,
            observation_space=layout.observation_box,
            action_space=layout.action_box,
            max_steps=max_steps,
            seed=seed,
            device=device,
        )
        layout.describe(self)
        self.offers_state = True

    def _rows(self) -> NDArray[Any]:
        fields = self._sim.fields
        everything = np.concatenate(
            [fields[name].reshape(self.num_envs, -1) for name in self._seen], axis=1
        )
        rows = np.zeros((self.num_envs, self.num_agents, self.obs_dim))
        for agent, (view, size) in enumerate(zip(self._views, self._sizes, strict=True)):
            rows[:, agent, :size] = view.of(everything)
        if self.global_state_slice is not None:
            rows[..., self.global_state_slice] = self._sim.observation()[:, None]
        return rows

    def _forces(self, action: NDArray[np.float32]) -> NDArray[Any]:
        forces = np.zeros((self.num_envs, sum(map(len, self._acts))))
        for agent, own in enumerate(self._acts):
            forces[:, own] = action[:, agent, : len(own)]
        return forces


def _views(raw: Any) -> tuple[list[Excerpt], list[str]]:
    """Return what each agent sees of the named fields, laid end to end, and their names."""
    data = raw.single_agent_env.unwrapped.data
    shapes = {name: getattr(data, name).shape for name in _FIELDS}
    views = [_view(raw, agent, shapes) for agent in range(len(raw.possible_agents))]
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    of_field = [np.searchsorted(ends, view.entries, side="right") for view in views]
    used = sorted({int(field) for fields in of_field for field in fields})
    seen = {_FIELDS[field]: shapes[_FIELDS[field]] for field in used}
    return [_view(raw, agent, seen) for agent in range(len(views))], list(seen)


def _view(raw: Any, agent: int, shapes: Mapping[str, tuple[int, ...]]) -> Excerpt:
    model = raw.single_agent_env.unwrapped.model

    def observe(row: Array) -> Array:
        data = SimpleNamespace(**_split(row, shapes))
        data.body = lambda name: SimpleNamespace(xpos=data.xpos[model.body(name).id])
        return build_obs(
            data,
            raw.k_dicts[agent],
            raw.local_categories,
            raw.mujoco_globals,
            raw.global_categories,
        )

    try:
        view = excerpt(observe, sum(int(np.prod(shape)) for shape in shapes.values()))
    except (AttributeError, TypeError, ValueError) as error:
        raise _cannot_be_batched(raw, agent, f" ({error})") from error
    if view is None:
        raise _cannot_be_batched(raw, agent, "")
    return view


def _split(row: Array, shapes: Mapping[str, tuple[int, ...]]) -> Fields:
    """Return the fields of one robot whose entries, end to end, are `row`."""
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(row, ends)
    return {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _cannot_be_batched(raw: Any, agent: int, why: str) -> UsageError:
    return UsageError(
        f"what {raw.possible_agents[agent]} sees is not entries of MuJoCo's {', '.join(_FIELDS)}, "
        f"clipped{why}, so it cannot be computed for all copies at once; leave "
        "batched and threads out"
    )
