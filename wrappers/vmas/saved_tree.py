"""The whole state of a simulator's objects, by path: saved, and put back into others like them.

What a user's own scenario keeps may be of any kind: lists, dicts, deques, sets, NumPy arrays,
random generators, objects with attributes. All of it becomes nested tuples, dicts and tensors that
`torch.load(weights_only=True)` reads; restoring runs no code of the state. What cannot be saved is
named by its path, such as `scenario.clock`.
"""

import enum
import functools
import logging
import pathlib
import random
import re
import sys
import threading
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.vmas.tensor_tree import Roots, slots_of

_PLAIN = (int, float, bool, str, bytes, type(None))
_CODE = (types.FunctionType, types.BuiltinFunctionType, type)
_CONSTANT = (
    types.ModuleType,
    types.MethodWrapperType,
    functools.partial,
    torch.device,
    torch.dtype,
    torch.layout,
    np.dtype,
    slice,
    range,
    re.Pattern,
    weakref.ref,
    pathlib.PurePath,
    logging.Logger,
    type(threading.Lock()),
    type(threading.RLock()),
    type(...),
    type(NotImplemented),
)
"""Never saved: an env made alike has the same."""
_KINDS: tuple[Any, ...] = (list, dict, deque, set, OrderedDict, Counter, int, float, bool, str)
_BUILT_IN = {kind.__name__: kind for kind in _KINDS}
_COLLECTIONS = (list, dict, deque, set)


class _Saving:
    """One walk through the objects, breadth first, entering each once."""

    def __init__(self, roots: Roots) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.arrays: dict[str, tuple[Tensor, Any, tuple[int, ...]]] = {}
        self._first: dict[int, str] = {}  # path by which an object was first met
        self._kept: list[Any] = []  # so that no id is used twice
        self._queue: deque[tuple[str, Any]] = deque()
        for name, root in roots.items():
            self.value(name, root)
        while self._queue:
            path, value = self._queue.popleft()
            self.nodes[path] = self._node(path, value)

    def value(self, path: str, value: Any) -> Any:
        """Return what stands for a value: itself if plain, or a tuple (kind, ...)."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, nn.Parameter):
            return ("parameter", self._met(path, value, self._copy))
        if isinstance(value, Tensor):
            return ("tensor", self._met(path, value, self._copy))
        if _is_array(value):
            return ("array", self._met(path, value, self._copy_array))
        stored = self._small(path, value)
        if stored is not None:
            return stored
        if _is_node(value):
            return ("node", self._met(path, value, lambda *one: self._queue.append(one)))
        raise NotImplementedError(
            f"{path} is a {name_of(type(value))}, which cannot be saved; keep what it holds in "
            "tensors, NumPy arrays, lists, dicts or objects with attributes (without it, a "
            "training run that is resumed starts new episodes)"
        )

    def _small(self, path: str, value: Any) -> Any:
        """Return what stands for a value that is not changed in place; None if it may be."""
        stream = _random_state(value)
        if stream is not None:
            return ("random", *stream)
        if isinstance(value, enum.Enum):
            return ("enum", name_of(type(value)), value.name)
        if isinstance(value, np.generic):
            return ("number", *_bytes_of(np.asarray(value)))
        if isinstance(value, tuple | frozenset):
            kind = "tuple" if isinstance(value, tuple) else "frozenset"
            items = [self.value(f"{path}[{i}]", item) for i, item in enumerate(value)]
            return (kind, name_of(type(value)), items if kind == "tuple" else _in_order(items))
        if isinstance(value, types.MethodType):
            return ("method", self.value(f"{path}.__self__", value.__self__), value.__name__)
        if isinstance(value, _CODE):
            return ("code", name_of(value))
        return ("same",) if isinstance(value, _CONSTANT) else None

    def _copy(self, path: str, tensor: Tensor) -> None:
        self.tensors[path] = tensor.detach().clone()

    def _copy_array(self, path: str, array: Any) -> None:
        self.arrays[path] = _bytes_of(array)

    def _met(self, path: str, value: Any, note: Callable[[str, Any], None]) -> str:
        """Return the path by which an object was first met, and note it the first time."""
        if id(value) not in self._first:
            self._first[id(value)] = path
            self._kept.append(value)
            note(path, value)
        return self._first[id(value)]

    def _node(self, path: str, value: Any) -> dict[str, Any]:
        node: dict[str, Any] = {"type": name_of(type(value))}
        if isinstance(value, np.ndarray):
            node["shape"] = value.shape
            node["items"] = [
                self.value(f"{path}[{i}]", item) for i, item in enumerate(value.ravel().tolist())
            ]
            return node
        node["attributes"] = {
            key: self.value(f"{path}.{key}", held) for key, held in attributes_of(value)
        }
        if isinstance(value, dict):
            node["items"] = [
                (
                    self.value(f"{path}[#{i}]", key),
                    self.value(f"{path}[{_key_name(key, i)}]", held),
                )
                for i, (key, held) in enumerate(value.items())
            ]
        elif isinstance(value, _COLLECTIONS):
            node["items"] = [self.value(f"{path}[{i}]", item) for i, item in enumerate(value)]
        if isinstance(value, set):
            node["items"] = _in_order(node["items"])
        if isinstance(value, deque):
            node["maxlen"] = value.maxlen
        if isinstance(value, defaultdict):
            node["factory"] = self.value(f"{path}.default_factory", value.default_factory)
        return node


def _in_order(items: list[Any]) -> list[Any]:
    """Return a set's plain values and classes in an order that does not depend on the process."""
    plain = all(type(item) in _PLAIN or item[0] == "code" for item in items)
    return sorted(items, key=repr) if plain else items


class _Restoring:
    """The same walk through the objects of another env, writing what was saved."""

    def __init__(
        self, roots: Roots, saved: Mapping[str, Any], *, same_shapes: bool, in_place: bool
    ) -> None:
        self.saved, self.same_shapes, self.in_place = saved, same_shapes, in_place
        self._built: dict[tuple[str, str], Any] = {}
        self._claimed: set[int] = set()
        self._queue: deque[tuple[str, Any]] = deque()
        self._like = dict(_objects(roots))
        self._device = next(_tensors(self._like.values()), torch.zeros(())).device
        for name, root in roots.items():
            if name in saved["nodes"]:
                self.value(name, ("node", name), root)
        while self._queue:
            path, value = self._queue.popleft()
            self._fill(path, value, saved["nodes"][path])

    def value(self, path: str, stored: Any, current: Any) -> Any:
        """Return what `stored` stands for, in the object that is there now where that can be."""
        if not isinstance(stored, tuple):
            return stored
        kind, *rest = stored
        if kind in ("tensor", "parameter", "array", "node"):
            (where,) = rest
            if (kind, where) not in self._built:
                self._built[kind, where] = getattr(self, f"_{kind}")(where, current)
            return self._built[kind, where]
        return getattr(self, f"_{kind}")(path, current, *rest)

    def _tensor(self, where: str, current: Any) -> Tensor:
        stored: Tensor = self.saved["tensors"][where]
        fits = isinstance(current, Tensor) and current.shape == stored.shape
        if isinstance(current, Tensor) and not fits and self.same_shapes:
            raise UsageError(
                f"the state does not fit this env: {where} has shape {tuple(stored.shape)} in the "
                f"state and {tuple(current.shape)} here; make the env with the same arguments"
            )
        if (
            self.in_place
            and fits
            and current.dtype == stored.dtype
            and not current.requires_grad
            and self._claim(current)
        ):
            try:
                return current.copy_(stored)  # what shares its memory sees it too
            except RuntimeError:  # such as expanded tensors
                pass
        return stored.to(self._device, copy=True)

    def _parameter(self, where: str, current: Any) -> Tensor:
        stored: Tensor = self.saved["tensors"][where]
        if not isinstance(current, nn.Parameter) or current.shape != stored.shape:
            raise self._other(where, "a parameter of this shape", current)
        current.data.copy_(stored)
        return current

    def _array(self, where: str, current: Any) -> Any:
        stored = _array_of(*self.saved["arrays"][where])
        if (
            isinstance(current, np.ndarray)
            and (current.shape, current.dtype) == (stored.shape, stored.dtype)
            and current.flags.writeable
            and self._claim(current)
        ):
            current[...] = stored  # what shares its memory sees it too
            return current
        return stored.copy()

    def _node(self, where: str, current: Any) -> Any:
        node = self.saved["nodes"][where]
        usable = name_of(type(current)) == node["type"] and not _is_value(type(current))
        if "shape" in node:
            usable = usable and current.shape == node["shape"]
        if "maxlen" in node:
            usable = usable and current.maxlen == node["maxlen"]
        found = current if usable and self._claim(current) else self._new(where, node)
        self._claim(found)
        self._queue.append((where, found))
        return found

    def _new(self, where: str, node: dict[str, Any]) -> Any:
        """Make an empty object of the type saved, with the constants of another of that type."""
        name = node["type"]
        if "shape" in node:
            return np.empty(node["shape"], dtype=object)
        short = name.rpartition(".")[2]
        if short in _BUILT_IN and name == name_of(_BUILT_IN[short]):
            return deque(maxlen=node["maxlen"]) if short == "deque" else _BUILT_IN[short]()
        if name == name_of(defaultdict):
            return defaultdict(self.value(where, node["factory"], None))
        other = self._like.get(name)
        cls = self._class(where, name)
        made = cls.__new__(cls)
        for key, value in () if other is None else attributes_of(other):
            _put(made, key, value)
        return made

    def _fill(self, path: str, found: Any, node: dict[str, Any]) -> None:
        if isinstance(found, np.ndarray):
            old = found.ravel().tolist()
            for i, stored in enumerate(node["items"]):
                found.flat[i] = self.value(f"{path}[{i}]", stored, old[i])
            return
        now = dict(attributes_of(found))
        for key, stored in node["attributes"].items():
            _put(found, key, self.value(f"{path}.{key}", stored, now.get(key)))
        for key in now.keys() - node["attributes"].keys():
            object.__delattr__(found, key)
        if isinstance(found, dict):
            self._fill_dict(path, found, node["items"])
        elif isinstance(found, list | deque | set):
            old = [*found, *[None] * len(node["items"])]
            items = [
                self.value(f"{path}[{i}]", stored, old[i]) for i, stored in enumerate(node["items"])
            ]
            found.clear()
            if isinstance(found, set):
                found.update(items)
            else:
                found.extend(items)

    def _fill_dict(self, path: str, found: dict[Any, Any], stored: list[Any]) -> None:
        keys = list(found)
        there = {_key_name(key, i): held for i, (key, held) in enumerate(found.items())}
        pairs = []
        for i, (stored_key, held) in enumerate(stored):
            key = self.value(f"{path}[#{i}]", stored_key, keys[i] if i < len(keys) else None)
            name = _key_name(key, i)
            pairs.append((key, self.value(f"{path}[{name}]", held, there.get(name))))
        dict.clear(found)
        for key, held in pairs:
            dict.__setitem__(found, key, held)

    # --- what is not written into an object that is there ---------------------------------------

    def _enum(self, path: str, current: Any, name: str, member: str) -> Any:
        if name_of(type(current)) == name:
            return type(current)[member]
        return self._class(path, name)[member]

    def _number(self, path: str, current: Any, *stored: Any) -> Any:
        return _array_of(*stored)[()]

    def _tuple(self, path: str, current: Any, name: str, stored: list[Any]) -> Any:
        old = [*(current if isinstance(current, tuple) else ()), *[None] * len(stored)]
        items = [self.value(f"{path}[{i}]", item, old[i]) for i, item in enumerate(stored)]
        if name == "builtins.tuple":
            return tuple(items)
        cls: Any = type(current) if name_of(type(current)) == name else self._class(path, name)
        return cls._make(items) if hasattr(cls, "_fields") else cls(items)

    def _frozenset(self, path: str, current: Any, name: str, stored: list[Any]) -> Any:
        return frozenset(self.value(f"{path}[{i}]", item, None) for i, item in enumerate(stored))

    def _random(self, path: str, current: Any, kind: str, state: Any) -> Any:
        return _random_from(current, kind, state)

    def _method(self, path: str, current: Any, owner: Any, name: str) -> Any:
        held = current.__self__ if isinstance(current, types.MethodType) else None
        return getattr(self.value(f"{path}.__self__", owner, held), name)

    def _code(self, path: str, current: Any, name: str) -> Any:
        if isinstance(current, _CODE) and name_of(current) == name:
            return current
        return self._class(path, name)

    def _same(self, path: str, current: Any) -> Any:
        return current

    def _class(self, path: str, name: str) -> Any:
        """Return a class or function that this env's objects, or their modules, have."""
        if name in self._like:
            return type(self._like[name])
        short = name.rpartition(".")[2]
        if short in _BUILT_IN and name == name_of(_BUILT_IN[short]):
            return _BUILT_IN[short]
        for module in {type(one).__module__ for one in self._like.values()}:
            if name.startswith(f"{module}.") and module in sys.modules:
                found: Any = sys.modules[module]
                for part in name.removeprefix(f"{module}.").split("."):
                    found = vars(found).get(part) if hasattr(found, "__dict__") else None
                found = getattr(found, "__func__", found)
                if isinstance(found, _CODE) and name_of(found) == name:
                    return found
        raise self._other(path, f"a {name}", None)

    def _claim(self, value: Any) -> bool:
        """Take an object for one that was saved; False if it was taken for another already."""
        if id(value) in self._claimed:
            return False
        self._claimed.add(id(value))
        return True

    def _other(self, path: str, needed: str, current: Any) -> UsageError:
        return UsageError(
            f"the state does not fit this env: it has {needed} at {path}, which this env cannot "
            f"make{'' if current is None else f' from its {name_of(type(current))}'}; make the env "
            "with the same arguments, reset it and step it once, then set its state"
        )


def save_tree(roots: Roots) -> dict[str, Any]:
    """Return copies of everything that can change, and what hangs together with what.

    Raises:
        NotImplementedError: something cannot be saved; the message has its path.
    """
    saving = _Saving(roots)
    return {"nodes": saving.nodes, "tensors": saving.tensors, "arrays": saving.arrays}


def load_tree(
    roots: Roots, saved: Mapping[str, Any], *, same_shapes: bool = True, in_place: bool = False
) -> None:
    """Write back what `save_tree` returned, on the device the tensors are now on.

    Args:
        roots: objects like those saved.
        saved: returned by `save_tree`.
        same_shapes: refuse a tensor of another shape than the one in its place.
        in_place: write into tensors where they fit, which keeps views of one another; not where
            a graph may still need what they hold.

    Raises:
        UsageError: the objects differ from those saved.
    """
    _Restoring(roots, saved, same_shapes=same_shapes, in_place=in_place)


def name_of(code: Any) -> str:
    """Return the module and name of a class or function."""
    return f"{code.__module__}.{code.__qualname__}"


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield attributes and what they hold, without running properties."""
    yield from list(getattr(value, "__dict__", {}).items())
    for name in slots_of(type(value)):
        if hasattr(value, name):
            yield name, getattr(value, name)


def _put(holder: Any, key: str, value: Any) -> None:
    if key in slots_of(type(holder)):
        object.__setattr__(holder, key, value)
    else:
        vars(holder)[key] = value


def _is_array(value: Any) -> bool:
    return type(value) in (np.ndarray, np.memmap) and not value.dtype.hasobject


def _is_node(value: Any) -> bool:
    """Return whether an object can be entered: a collection, or one with attributes."""
    cls = type(value)
    if cls is np.ndarray or isinstance(value, _COLLECTIONS) or cls is object:
        return True
    return cls.__dictoffset__ != 0 or bool(slots_of(cls))


def _is_value(cls: type) -> bool:
    """Return whether objects of a class may be shared as constants: frozen dataclasses."""
    parameters = getattr(cls, "__dataclass_params__", None)
    return bool(parameters is not None and parameters.frozen)


def _key_name(key: Any, position: int) -> str:
    if type(key) in _PLAIN or (type(key) is tuple and all(type(part) in _PLAIN for part in key)):
        return repr(key)
    return f"#{position}"


def _bytes_of(array: Any) -> tuple[Tensor, Any, tuple[int, ...]]:
    raw = np.frombuffer(bytearray(array.tobytes()) or bytearray(1), np.uint8)
    return torch.from_numpy(raw), np.lib.format.dtype_to_descr(array.dtype), array.shape


def _array_of(raw: Tensor, description: Any, shape: tuple[int, ...]) -> Any:
    dtype: Any = np.lib.format.descr_to_dtype(description)
    count = int(np.prod(shape))
    return np.frombuffer(raw.cpu().numpy().tobytes(), dtype, count=count).reshape(shape)


def _random_state(value: Any) -> tuple[str, Any] | None:
    if isinstance(value, np.random.Generator):
        return "Generator", _without_arrays(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return "RandomState", _without_arrays(value.get_state(legacy=False))
    if isinstance(value, random.Random) and type(value) is not random.SystemRandom:
        return "Random", value.getstate()
    if isinstance(value, torch.Generator):
        return "torch", value.get_state()
    return None


def _random_from(current: Any, kind: str, state: Any) -> Any:
    if kind == "Generator":
        name = state["bit_generator"]
        if not isinstance(current, np.random.Generator) or (
            type(current.bit_generator).__name__ != name
        ):
            if name not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
                raise UsageError(f"the state has an unknown random generator {name!r}")
            current = np.random.Generator(getattr(np.random, name)())
        current.bit_generator.state = _with_arrays(state)
    elif kind == "RandomState":
        current = current if isinstance(current, np.random.RandomState) else np.random.RandomState()
        current.set_state(_with_arrays(state))
    elif kind == "Random":
        current = current if isinstance(current, random.Random) else random.Random()
        version, internal, gauss = state
        current.setstate((version, tuple(internal), gauss))
    else:
        current = current if isinstance(current, torch.Generator) else torch.Generator()
        current.set_state(state.cpu())
    return current


def _without_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _without_arrays(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _with_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {
            key: np.asarray(value, np.uint32 if key == "key" and len(value) > 2 else np.uint64)
            if isinstance(value, list)
            else _with_arrays(value)
            for key, value in state.items()
        }
    return state


def _objects(roots: Roots) -> Iterator[tuple[str, Any]]:
    """Yield one object of each type that hangs together with the roots, by the type's name."""
    seen: dict[int, Any] = {}
    queue = deque(roots.values())
    while queue:
        value = queue.popleft()
        if id(value) in seen or isinstance(value, (*_PLAIN, *_CODE, *_CONSTANT, Tensor)):
            continue
        seen[id(value)] = value
        yield name_of(type(value)), value
        if isinstance(value, dict):
            queue.extend([*value.keys(), *value.values()])
        elif isinstance(value, (list, tuple, deque, set, frozenset)):
            queue.extend(value)
        queue.extend(held for _, held in attributes_of(value))


def _tensors(objects: Iterable[Any]) -> Iterator[Tensor]:
    for value in objects:
        for _, held in attributes_of(value):
            if isinstance(held, Tensor):
                yield held
