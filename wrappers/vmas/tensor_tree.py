"""Every tensor inside a simulator, by path: the one way to detach, save and merge its state.

A simulator keeps tensors wherever its authors liked: on the world, the scenario, sensors,
controllers, in lists and dicts. `leaves` finds them all, breadth first, entering each object once
(by identity, so cycles are safe) and never entering modules, classes or functions. Attributes are
read from `vars()` and `__slots__`, so no property runs. A path, `world._agents[0]._state._pos` say,
is stable as long as the objects hang together in the same way.
"""

import ast
import enum
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError

Roots = Mapping[str, Any]
"""Names of the objects to start from; the first root that reaches an object names it."""
Plain = int | float | bool | str | None | tuple[Any, ...]
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

    def add(self, name: str, value: Any) -> None:
        """Bind what `name` (the end of a path) stands for, which need not exist yet."""
        if name.startswith("[#"):
            raise UsageError(
                f"the state does not fit this env: {self.path} lacks an entry whose key is an "
                "object; reset the env and step it once, then set its state"
            )
        if self.is_object:
            self.put(name[1:], value)
        elif self.is_sequence:
            self.container.extend([None] * (int(name[1:-1]) + 1 - len(self.container)))
            self.container[int(name[1:-1])] = value
        else:
            self.container[ast.literal_eval(name[1:-1])] = value


class Snapshot:
    """What hung together where, so that it can be put back."""

    def __init__(self, roots: Roots) -> None:
        self.nodes: dict[str, _Node] = {}
        self.references: dict[str, str] = {}
        """Path of a slot that holds an object another path names: that other path."""
        self._slots: list[tuple[str, _Node, Any, Any]] = []  # with a tensor, or a tuple with one
        names: dict[int, str] = {}
        queue: deque[tuple[str, Any]] = deque(roots.items())
        while queue:
            path, value = queue.popleft()
            if isinstance(value, tuple):
                queue.extend((f"{path}[{i}]", item) for i, item in enumerate(value))
            elif not _KINDS[type(value)].is_container:
                continue
            elif id(value) in names:
                self.references[path] = names[id(value)]
            else:
                names[id(value)] = path
                node = self.nodes[path] = _Node(path, value)
                for child, key, held in node.items():
                    kind = _KINDS[type(held)]
                    if kind.is_tensor or (kind.is_tuple and _has_tensor(held)):
                        self._slots.append((child, node, key, held))
                    if kind.is_container or kind.is_tuple:
                        queue.append((child, held))

    def plain(self) -> dict[str, Plain]:
        """Return every number, string, None and tuple of such by path."""
        items = (item for node in self.nodes.values() for item in node.items())
        return {path: value for path, _, value in items if _is_plain(value)}

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


def save_tree(roots: Roots) -> dict[str, Any]:
    """Return copies of all tensors and plain values, and which slots share an object.

    Nested dicts of tensors, numbers and strings: loadable with `weights_only`.
    """
    snapshot = Snapshot(roots)
    copies: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for path, tensor in snapshot.tensors().items():
        if id(tensor) in first:
            aliases[path] = first[id(tensor)]
        else:
            first[id(tensor)] = path
            copies[path] = tensor.detach().clone()
    return {
        "tensors": copies,
        "aliases": aliases,
        "plain": snapshot.plain(),
        "references": dict(snapshot.references),
    }


def load_tree(roots: Roots, saved: Mapping[str, Any]) -> None:
    """Write back what `save_tree` returned, as copies on the device the tensors are now on.

    Raises:
        UsageError: the objects differ from those saved.
    """
    snapshot = Snapshot(roots)
    old = snapshot.tensors()
    device = next((tensor.device for tensor in old.values()), torch.device("cpu"))
    copies = {path: tensor.to(device, copy=True) for path, tensor in saved["tensors"].items()}
    for path, source in saved["aliases"].items():
        copies[path] = copies[source]
    for path, tensor in copies.items():
        if path in old and old[path].shape != tensor.shape:
            raise UsageError(
                f"the state does not fit this env: {path} has shape {tuple(tensor.shape)} in the "
                f"state and {tuple(old[path].shape)} here; make the env with the same arguments"
            )
    snapshot.write(lambda path, tensor: copies.get(path, tensor))
    for path, target in saved["references"].items():
        if snapshot.references.get(path) != target:
            _bind(snapshot, path, _node(snapshot, target).container)
    plain = snapshot.plain()
    for path, tensor in copies.items():
        if path not in old:
            _bind(snapshot, path, tensor)
    for path, value in saved["plain"].items():
        if path not in plain or plain[path] != value:
            _bind(snapshot, path, value)


def _bind(snapshot: Snapshot, path: str, value: Any) -> None:
    name = path[path.rindex("[") if path.endswith("]") else path.rindex(".") :]
    _node(snapshot, path.removesuffix(name)).add(name, value)


def _node(snapshot: Snapshot, path: str) -> _Node:
    if path not in snapshot.nodes:
        raise UsageError(
            f"the state does not fit this env: it has no {path}; make the env with the same "
            "arguments"
        )
    return snapshot.nodes[path]


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
    is_plain: bool
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
            is_plain=issubclass(cls, _PLAIN) and not issubclass(cls, enum.Enum),
            is_container=issubclass(cls, (dict, list, deque)) or (has_attributes and not is_opaque),
        )
        return self[cls]


_KINDS = _Kinds()


def _has_tensor(value: tuple[Any, ...]) -> bool:
    kinds = ((_KINDS[type(item)], item) for item in value)
    return any(kind.is_tensor or (kind.is_tuple and _has_tensor(item)) for kind, item in kinds)


def _is_plain(value: Any) -> bool:
    return _KINDS[type(value)].is_plain or (type(value) is tuple and all(map(_is_plain, value)))


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
