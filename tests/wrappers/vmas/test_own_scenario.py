"""A user's own scenario may keep its state in any way: VMAS's own env is the reference."""

import io
import itertools
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import pytest
import torch
import vmas as raw_vmas
from torch import nn
from vmas.scenarios.navigation import Scenario as Navigation
from vmas.simulator.core import Agent, World
from vmas.simulator.scenario import BaseScenario

from diffsurrogate.wrappers.vmas import adapter as vmas

ENVS = AGENTS = 3


@dataclass
class Task:
    age: float = 0.0
    log: list = field(default_factory=list)


@dataclass(frozen=True)
class Fixed:
    age: int = 0


class Phase(Enum):
    FIRST = 0
    LATER = 1


class Slotted:
    __slots__ = ("age",)

    def __init__(self):
        self.age = np.zeros(())


class Counting(BaseScenario):
    """Rewards tell how many steps ago each env was reset, of which `kept` is the only record."""

    def make_world(self, batch_dim, device, **kwargs):
        world = World(batch_dim, device)
        for name in "abc":
            world.add_agent(Agent(name, collide=False))
        self.kept = self.zero()
        return world

    def reset_world_at(self, env_index=None):
        for agent in self.world.agents:
            agent.set_pos(torch.zeros(1, 2), batch_index=env_index)
        for index in range(ENVS) if env_index is None else [env_index]:
            self.clear(index)

    def post_step(self):
        self.tick()

    def observation(self, agent):
        return agent.state.pos

    def reward(self, agent):
        return torch.as_tensor(self.read()).float().expand(ENVS).clone()

    def done(self):
        return self.world.agents[0].state.pos[:, 0] > 0.05


def setter(index=lambda i: i, value=lambda: 0):
    def clear(self, i):
        self.kept[index(i)] = value()

    return clear


def grow(self):
    self.kept += 1


def anew(self):
    self.kept = self.kept + 1


def each(change):
    def tick(self):
        for one in self.kept:
            change(one)

    return tick


def mapped(change):
    def tick(self):
        self.kept = type(self.kept)(map(change, self.kept))

    return tick


def in_dict(self):
    for key in self.kept:
        self.kept[key] += 1


def older(task):
    task.age = task.age + 1


def age_and_log(task):
    task.age += 1
    task.log.append(task.age)


def own(zero, clear, tick, read):
    return type("Own", (Counting,), {"zero": zero, "clear": clear, "tick": tick, "read": read})


def listed(make, change, read):
    return own(
        lambda s: [make() for _ in range(ENVS)],
        setter(value=make),
        each(change),
        lambda s: [read(one) for one in s.kept],
    )


def of_arrays(views, read):
    """Counts in one memory that is seen twice."""

    class Own(Counting):
        def zero(self):
            self.whole, kept = views()
            return kept

        def clear(self, i):
            self.whole[i] = 0

        def tick(self):
            self.kept += 1

        def read(self):
            return read(self.whole)

    return Own


def two_views(zeros):
    whole = zeros(ENVS, 2)
    return whole, whole[:, 0]


def array_and_tensor():
    whole = np.zeros(ENVS)
    return whole, torch.from_numpy(whole)


def flat(i):
    return slice(2 * i, 2 * i + 2)


class Keyed(Counting):
    """Counts by agent, phases, and what is made only in some step."""

    def zero(self):
        return defaultdict(int)

    def clear(self, i):
        for agent in self.world.agents:
            self.kept[agent, i] = (0, Phase.FIRST)

    def tick(self):
        for key, (age, _) in list(self.kept.items()):
            self.kept[key] = (age + 1, Phase.LATER)
        self.late = [np.int64(7), {frozenset("ab"): self.world.agents[0]}]

    def read(self):
        agent = self.world.agents[1]
        return [self.kept[agent, i][0] + self.kept[agent, i][1].value for i in range(ENVS)]


class Drawing(Counting):
    """Its own generators of random numbers, beside the counts."""

    def zero(self):
        self.streams = random.Random(3), np.random.default_rng(4), torch.Generator()
        return np.zeros((AGENTS, ENVS))

    def clear(self, i):
        self.kept[:, i] = 0

    def tick(self):
        python, numpy, own = self.streams
        drawn = python.random() + numpy.random() + torch.rand((), generator=own).item()
        self.kept = self.kept + drawn

    def read(self):
        return self.kept[0]


class Network(Counting):
    """A network of which a buffer counts."""

    def zero(self):
        self.net = nn.BatchNorm1d(ENVS, affine=False)
        return self.net.running_mean.zero_()

    def clear(self, i):
        self.net.running_mean[i] = 0

    def tick(self):
        self.net.running_mean += 1

    def read(self):
        return self.net.running_mean


AXES = {
    "(env,)": ((ENVS,), lambda i: i, lambda x: x),
    "(1, env)": ((1, ENVS), lambda i: (0, i), lambda x: x[0]),
    "(agent, env)": ((AGENTS, ENVS), lambda i: (slice(None), i), lambda x: x[0]),
    "(2, env, 5)": ((2, ENVS, 5), lambda i: (1, i), lambda x: x[1, :, 4]),
    "(env * 2,)": ((ENVS * 2,), flat, lambda x: x.reshape(ENVS, 2)[:, 1]),
}
LAYOUTS = {
    f"{kind} {axes}": own(
        lambda s, zeros=zeros, shape=shape: zeros(shape),
        setter(index),
        grow,
        lambda s, read=read: read(s.kept),
    )
    for kind, zeros in {"tensor": torch.zeros, "array": np.zeros}.items()
    for axes, (shape, index, read) in AXES.items()
} | {
    "views of a tensor": of_arrays(lambda: two_views(torch.zeros), lambda x: x[:, 0]),
    "views of an array": of_arrays(lambda: two_views(lambda *n: np.zeros(n)), lambda x: x[:, 0]),
    "an array and a tensor of it": of_arrays(array_and_tensor, lambda x: x),
    "new tensors": own(lambda s: torch.zeros(ENVS), setter(), anew, lambda s: s.kept),
    "numbers": own(
        lambda s: [0] * ENVS, setter(), mapped(lambda x: x + 1), lambda s: s.kept
    ),
    "NumPy numbers": own(
        lambda s: [np.int64(0)] * ENVS, setter(), mapped(lambda x: x + np.int8(1)), lambda s: s.kept
    ),
    "tensors": listed(lambda: torch.zeros(()), lambda x: x.add_(1), float),
    "dict by env": own(lambda s: dict.fromkeys(range(ENVS), 0), setter(), in_dict, lambda s: [
        s.kept[i] for i in range(ENVS)
    ]),
    "counter": own(lambda s: Counter(range(ENVS)), setter(), in_dict, lambda s: [
        s.kept[i] for i in range(ENVS)
    ]),
    "deques": listed(lambda: deque([0.0], 3), lambda x: x.append(x[-1] + 1), lambda x: x[-1]),
    "sets": listed(set, lambda x: x.add(len(x)), len),
    "histories": listed(list, lambda x: x.append({"at": (len(x), None)}), len),
    "objects": listed(Task, age_and_log, lambda x: x.age + sum(x.log)),
    "objects that are constants": own(
        lambda s: [Fixed()] * ENVS, setter(value=Fixed),
        mapped(lambda x: replace(x, age=x.age + 1)), lambda s: [x.age for x in s.kept],
    ),
    "slots": listed(Slotted, older, lambda x: x.age),
    "array of objects": own(lambda s: np.array([Task() for _ in range(ENVS)]), setter(value=Task),
        each(age_and_log), lambda s: [x.age for x in s.kept]),
    "agents as keys": Keyed,
    "generators": Drawing,
    "a network": Network,
}  # fmt: skip


def push(steps):
    """(env, agent, 2): only env 0 moves, and ends in its fourth step; env 2 later."""
    action = torch.zeros(ENVS, AGENTS, 2)
    action[0, 0, 0], action[2, 0, 0] = 1.0, 0.5
    return [action] * steps


@pytest.mark.parametrize("scenario", LAYOUTS.values(), ids=LAYOUTS)
def test_a_partial_reset_and_a_restored_state_are_vmas_own(scenario):
    raw, env = raw_vmas.make_env(scenario(), num_envs=ENVS), vmas.make(scenario(), num_envs=ENVS)
    raw.reset()
    env.reset(seed=0)
    rewards = []
    for step, action in enumerate(push(9)):
        if step == 5:
            file = io.BytesIO()
            torch.save(env.state(), file)
        _, reward, done, _ = raw.step(list(action.unbind(1)))
        for index in done.nonzero().flatten().tolist():
            raw.reset_at(index)
        rewards.append(torch.stack(reward, 1))
        assert torch.equal(env.step(action)[1], rewards[-1]), f"step {step + 1}"
    file.seek(0)
    state = torch.load(file, weights_only=True)
    new, stepped = vmas.make(scenario(), num_envs=ENVS), vmas.make(scenario(), num_envs=ENVS)
    stepped.reset()
    stepped.step(push(1)[0])
    for other in (env, new, stepped):
        other.set_state(state)
        assert torch.equal(
            torch.stack([other.step(one)[1] for one in push(4)]), torch.stack(rewards[5:])
        )


@pytest.mark.parametrize(
    ("held", "where"),
    [
        (itertools.count(), r"scenario\.held is a itertools\.count"),
        ({"of": [Task(age=iter([]))]}, r"scenario\.held\['of'\]\[0\]\.age is a builtins\.list_it"),
        (bytearray(3), r"scenario\.held is a builtins\.bytearray"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named(held, where):
    env = vmas.make(LAYOUTS["numbers"](), num_envs=ENVS)
    env.scenario.held = held
    env.reset()
    with pytest.raises(NotImplementedError, match=rf"{where}\S*, which cannot be saved; keep"):
        env.state()


class Written(Navigation):
    """Writes in place to what has a graph, as `count[i] = 0` does."""

    def make_world(self, batch_dim, device, **kwargs):
        world = super().make_world(batch_dim, device, **kwargs)
        self.travelled = torch.zeros(batch_dim, device=device)
        return world

    def reset_world_at(self, env_index=None):
        super().reset_world_at(env_index)
        self.travelled[slice(None) if env_index is None else env_index] = 0

    def post_step(self):
        self.travelled = self.travelled + self.world.agents[0].state.pos.square().sum(-1)

    def reward(self, agent):
        return self.travelled.exp()  # whose backward pass needs its value


def test_a_reset_cuts_the_graph_of_its_env_and_keeps_what_backward_needs():
    grads = []
    for mask in (torch.zeros(ENVS, dtype=torch.bool), torch.tensor([False, True, False])):
        env = vmas.make(Written(), num_envs=ENVS, n_agents=2, differentiable=True)
        env.reset(seed=1)
        action = torch.full((ENVS, 2, 2), 0.5).requires_grad_()
        first = env.step(action)[1]
        if mask.any():
            env._reset_where(mask)
        second = env.step(action.detach())[1]
        grads.append(
            [
                torch.autograd.grad(one.sum(), action, retain_graph=True)[0]
                for one in (second, first)
            ]
        )
    whole, cut = grads
    assert torch.equal(cut[0][0], whole[0][0]) and not cut[0][1].any()
    assert torch.equal(cut[1], whole[1])
