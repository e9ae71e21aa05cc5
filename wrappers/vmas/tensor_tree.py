"""Every tensor inside a simulator, by path: the one way to detach and merge its state.

A simulator keeps tensors wherever its authors liked: on the world, the scenario, sensors,
controllers, in lists and dicts. `leaves` finds them all, breadth first, entering each object once
(by identity, so cycles are safe) and never entering modules, classes or functions. Attributes are
read from `vars()` and `__slots__`, so no property runs. A path, `world._agents[0]._state._pos` say,
is stable as long as the objects hang together in the same way.
"""

import enum
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Roots = Mapping[str, Any]
"""Names of the objects to start from; the first root that reaches an object names it."""
_PLAIN = (int, float, str, type(None))  # bool is an int
_OPAQUE = (
    types.ModuleType,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    enum.Enum,
    nn.Module,
    torch.Generator,
)


class _Node:
    """One object, dict, list or deque, and what it held when it was visited."""

    def __init__(self, path: str, container: Any) -> None:
        self.path = path
        self.container = container
        self.is_sequence = isinstance(container, (list, deque))
        self.is_object = not self.is_sequence and not isinstance(container, dict)
        self.held: dict[Any, Any]
        if self.is_object:
            self.held = dict(getattr(container, "__dict__", ()))
            for name in _KINDS[type(container)].slots:
                if hasattr(container, name):
                    self.held[name] = getattr(container, name)
        else:
            self.held = dict(enumerate(container) if self.is_sequence else container)

    def items(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield path, key and value of everything it held."""
        for position, (key, value) in enumerate(self.held.items()):
            if self.is_object:
                yield f"{self.path}.{key}", key, value
            else:
                yield f"{self.path}[{_key_name(key, position)}]", key, value

    def put(self, key: Any, value: Any) -> None:
        """Bind `key` to `value`, without running properties."""
        if not self.is_object:
            self.container[key] = value
        elif key in _KINDS[type(self.container)].slots:
            object.__setattr__(self.container, key, value)
        else:
            vars(self.container)[key] = value

    def put_back(self) -> None:
        """Bind everything as it was; attributes and keys that are new stay."""
        if self.is_sequence:
            self.container.clear()
            self.container.extend(self.held.values())
        else:
            for key, value in self.held.items():
                self.put(key, value)


class Snapshot:
    """What hung together where, so that it can be put back."""

    def __init__(self, roots: Roots) -> None:
        self.nodes: dict[str, _Node] = {}
        self._slots: list[tuple[str, _Node, Any, Any]] = []  # with a tensor, or a tuple with one
        seen: set[int] = set()
        queue: deque[tuple[str, Any]] = deque(roots.items())
        while queue:
            path, value = queue.popleft()
            if isinstance(value, tuple):
                queue.extend((f"{path}[{i}]", item) for i, item in enumerate(value))
            elif _KINDS[type(value)].is_container and id(value) not in seen:
                seen.add(id(value))
                node = self.nodes[path] = _Node(path, value)
                for child, key, held in node.items():
                    kind = _KINDS[type(held)]
                    if kind.is_tensor or (kind.is_tuple and _has_tensor(held)):
                        self._slots.append((child, node, key, held))
                    if kind.is_container or kind.is_tuple:
                        queue.append((child, held))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by path, graph attached, not copied."""
        found: dict[str, Tensor] = {}

        def note(path: str, tensor: Tensor) -> Tensor:
            found[path] = tensor
            return tensor

        for path, _, _, value in self._slots:
            _replaced(path, value, note)
        return found

    def write(self, change: Callable[[str, Tensor], Tensor]) -> None:
        """Replace every tensor by `change(path, tensor)`."""
        for path, node, key, value in self._slots:
            node.put(key, _replaced(path, value, change))

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by `change(tensor)`; tensors that were one object stay one."""
        changed: dict[int, Tensor] = {}

        def once(path: str, tensor: Tensor) -> Tensor:
            if id(tensor) not in changed:
                changed[id(tensor)] = change(tensor)
            return changed[id(tensor)]

        self.write(once)

    def put_back(self) -> None:
        """Bind everything as it was, tensors included."""
        for node in self.nodes.values():
            node.put_back()


def detach_tree(roots: Roots) -> None:
    """Cut the graph behind every tensor; the tensors others hold keep theirs.

    What had a graph becomes a copy, so that later writes in place cannot harm a backward pass.
    """
    Snapshot(roots).map(lambda x: x.detach().clone() if x.requires_grad else x)


def copy_tree(roots: Roots) -> None:
    """Give the simulator its own detached copies, so that in-place writes stay inside."""
    Snapshot(roots).map(lambda tensor: tensor.detach().clone())


def own_copies(roots: Roots) -> None:
    """Give the simulator copies to write in place, through which the graph goes on.

    Views of one another stay as they are.
    """
    snapshot = Snapshot(roots)
    tensors = {id(tensor): tensor for tensor in snapshot.tensors().values()}.values()
    shared = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors)
    snapshot.map(
        lambda tensor: tensor if shared[tensor.untyped_storage().data_ptr()] > 1 else tensor.clone()
    )


def _key_name(key: Any, position: int) -> str:
    """Name a dict key by its literal where it has one that is the same in every process."""
    if isinstance(key, (*_PLAIN, bytes)):
        return repr(key)
    if isinstance(key, tuple) and all(isinstance(part, _PLAIN) for part in key):
        return repr(key)
    return f"#{position}"


class _Kind(NamedTuple):
    slots: tuple[str, ...]
    is_tensor: bool
    is_tuple: bool
    is_container: bool


class _Kinds(dict[type, _Kind]):
    """What to do with an object of each type, worked out once."""

    def __missing__(self, cls: type) -> _Kind:
        slots: list[str] = []
        for base in cls.__mro__:
            found = vars(base).get("__slots__", ())
            slots += [found] if isinstance(found, str) else list(found)
        slots = [name for name in slots if name not in ("__dict__", "__weakref__")]
        is_opaque = issubclass(cls, (Tensor, tuple, *_PLAIN, *_OPAQUE))
        has_attributes = cls.__dictoffset__ != 0 or bool(slots)
        self[cls] = _Kind(
            slots=tuple(slots),
            is_tensor=issubclass(cls, Tensor) and not issubclass(cls, nn.Parameter),
            is_tuple=issubclass(cls, tuple),
            is_container=issubclass(cls, (dict, list, deque)) or (has_attributes and not is_opaque),
        )
        return self[cls]


_KINDS = _Kinds()


def slots_of(cls: type) -> tuple[str, ...]:
    """Return the names of the `__slots__` of a class and its bases."""
    return _KINDS[cls].slots


def _has_tensor(value: tuple[Any, ...]) -> bool:
    kinds = ((_KINDS[type(item)], item) for item in value)
    return any(kind.is_tensor or (kind.is_tuple and _has_tensor(item)) for kind, item in kinds)


def _replaced(path: str, value: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
    """Return `value` with its tensors replaced: itself, or a tuple's items."""
    kind = _KINDS[type(value)]
    if kind.is_tensor:
        return change(path, value)
    if not kind.is_tuple:
        return value
    items = [_replaced(f"{path}[{i}]", item, change) for i, item in enumerate(value)]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    cls: Any = type(value)
    return cls._make(items) if hasattr(cls, "_fields") else tuple(items)
