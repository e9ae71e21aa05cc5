"""Every tensor of an object graph is found, and goes back to where it was."""

import enum
import io
from collections import deque, namedtuple

import pytest
import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.vmas.saved_tree import load_tree, save_tree
from diffsurrogate.wrappers.vmas.tensor_tree import Snapshot, copy_tree

Pair = namedtuple("Pair", ["left", "right"])


class Colour(enum.Enum):
    RED = 1


class Slotted:
    __slots__ = ("held", "missing")

    def __init__(self, held):
        self.held = held


class Thing:
    @property
    def trap(self):
        raise AssertionError("a property ran")

    def __init__(self, **attributes):
        vars(self).update(attributes)


def graph():
    """A tensor with a graph behind it."""
    return torch.ones(5, requires_grad=True) * 2


def everything():
    shared = graph()
    world = Thing(
        attribute=graph(),
        nested={"key": [graph(), {"deeper": graph()}], (True, 3): graph(), frozenset("a"): graph()},
        pair=Pair(graph(), "right"),
        queue=deque([graph()], maxlen=3),
        slotted=Slotted(graph()),
        one=shared,
        two=shared,
        count=3,
        name="world",
        nothing=None,
        colour=Colour.RED,
        kind=Thing,
        module=torch,
        function=graph,
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    world.itself = world
    return world


PATHS = [
    "w.attribute",
    "w.one",
    "w.two",
    "w.pair[0]",
    "w.nested[(True, 3)]",
    "w.nested[#2]",
    "w.nested['key'][0]",
    "w.nested['key'][1]['deeper']",
    "w.queue[0]",
    "w.slotted.held",
]


def test_tensors_are_found_wherever_they_are():
    assert sorted(Snapshot({"w": everything()}).tensors()) == sorted(PATHS)


def test_one_tensor_under_two_names_stays_one():
    world = everything()
    copy_tree({"w": world})
    assert world.one is world.two
    load_tree({"w": world}, save_tree({"w": world}))
    assert world.one is world.two


def test_types_and_objects_survive_a_write():
    world = everything()
    pair, queue, itself = type(world.pair), world.queue, world.itself
    copy_tree({"w": world})
    assert type(world.pair) is pair and world.queue is queue and world.itself is itself
    assert world.queue.maxlen == 3 and isinstance(world.parameter, torch.nn.Parameter)


def test_a_write_in_place_after_copying_does_not_harm_backward():
    leaf = torch.full((3,), 2.0, requires_grad=True)
    world = Thing(x=leaf * 1)
    cube = (world.x**3).sum()
    copy_tree({"w": world})
    world.x[:] = 0
    cube.backward()
    assert leaf.grad.tolist() == [12, 12, 12]  # 3 * 2^2


def test_saved_state_comes_back_in_a_new_process_and_object():
    def make():
        goals = [Thing(x=torch.zeros(2)), Thing(x=torch.ones(2))]
        return {"goals": goals, "w": Thing(goal=goals[0], count=1, memo={}, seen=[])}

    old = make()
    old["w"].goal = old["goals"][1]
    old["goals"][1].x = torch.full((2,), 5.0)
    old["w"].count, old["w"].late, old["w"].memo["k"] = 7, torch.full((3,), 9.0), "v"
    old["w"].late_pair = (1, (2.5, "x"))
    old["w"].seen.append(torch.ones(1))
    buffer = io.BytesIO()
    torch.save(save_tree(old), buffer)
    buffer.seek(0)
    new = make()
    load_tree(new, torch.load(buffer, weights_only=True))
    assert new["w"].goal is new["goals"][1] and new["w"].goal.x.tolist() == [5, 5]
    assert new["w"].count == 7 and new["w"].late.tolist() == [9, 9, 9]
    assert new["w"].late_pair == (1, (2.5, "x"))
    assert new["w"].memo == {"k": "v"} and new["w"].seen[0].tolist() == [1]


def test_a_state_of_something_else_is_refused():
    saved = save_tree({"w": Thing(x=torch.zeros(2, 3))})
    with pytest.raises(UsageError, match=r"w\.x has shape \(2, 3\).*\(2, 5\) here"):
        load_tree({"w": Thing(x=torch.zeros(2, 5))}, saved)
    unknown = type("Unknown", (), {"__module__": "elsewhere"})()
    with pytest.raises(UsageError, match=r"has a elsewhere\.Unknown at w\.inner.* cannot make"):
        load_tree({"w": Thing()}, save_tree({"w": Thing(inner=unknown)}))
