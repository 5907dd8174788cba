"""The Python objects of a training as a graph: each is written once, and filled in place.

An object is known by the place where it stood when `fit` began: the program is the same in every
process, so what stands at that place in a later process is the same object. What it was given
and never changed is configuration: the program says what it is now. What changed is state: it is
put into the object of that place, so that all who share it go on sharing it.

Reading makes only plain kinds, and instances of classes that the program itself shows us (its
objects' and its modules'), without calling them. Nothing is imported or called by name.
"""

import collections
import io
import marshal
import math
import operator
import os
import random
import reprlib
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

import keras
import numpy as np

from runner.checkpoint.plain import (
    AS_IN_JSON,
    MADE,
    MAX_DEPTH,
    LoadArray,
    NotPlainError,
    StoreArray,
    check_array,
    decode,
    encode,
    encode_leaf,
    sorted_items,
)
from runner.errors import CheckpointError
from runner.training import fields, files, objects
from runner.training.fields import fields_of
from runner.training.objects import Kind, kind_of

MOST_OBJECTS = 100_000  #: in one attribute: more would keep the training waiting at each checkpoint
MOST_COPIED = 256 * 2**20  #: bytes of all arrays that are held to be compared; of others, a sample
MOST_COMPARED = 64 * 2**20  #: bytes of one of them
LONGEST = 64  #: characters of a key that are a part of a place's name
MANY = 1000  #: floats in a list travel as an array from this on
AMBIENT = timedelta(days=30)  #: a time within it, set when the training begins, is of the clock

_GIVEN_ONLY = {Kind.FUNCTION, Kind.METHOD, Kind.PARTIAL, Kind.BUILTIN, Kind.CLASS, Kind.FILE}
_BITS: dict[str, Any] = {
    "PCG64": np.random.PCG64,
    "PCG64DXSM": np.random.PCG64DXSM,
    "MT19937": np.random.MT19937,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}
_OPERATIONS = {"less": keras.ops.less, "greater": keras.ops.greater}
_MISSING: Any = object()
Node = dict[str, Any]


class Graph:
    """What is reachable from some objects: as the program gave it, and as it is.

    Args:
        warn: told, once each, what can't be saved or restored, and what is configured otherwise.
    """

    def __init__(self, *, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._said: set[str] = set()
        self.roots: dict[str, Any] = {}
        self.objects: dict[str, Any] = {}  #: by key: all that stood somewhere at the beginning
        self.keys: dict[int, str] = {}  #: of those, by id
        self.first: dict[str, Node] = {}  #: as the program gave them
        self.given: dict[str, dict[str, Any]] = {}  #: the values of their fields then
        self.begun: dict[str, dict[str, Any]] = {}  #: and after on_train_begin
        self.copies: dict[str, Any] = {}  #: of containers, as they were given
        self.changed: dict[str, set[str]] = {}  #: fields that were ever others
        self.left_out: dict[str, Exception] = {}  #: too large: not looked at again
        self.apart: set[int] = set()  #: ids of objects that say themselves what their state is
        self._classes: dict[tuple[str, str], type] = {}
        self._modules: set[str] = set()
        self._clocks = _clocks()
        self._copied = 0

    def add(self, roots: Mapping[str, Any]) -> None:
        """Look at objects and all that they refer to, before the training changes them."""
        for name, root in roots.items():
            self.roots[name] = root
            self.hold(name, root)
        recording = _Recording(self, "")
        for name, root in roots.items():
            recording.root(name, root)

    def hold(self, key: str, value: Any) -> None:
        """Know an object by its place."""
        self.objects[key] = value
        self.keys[id(value)] = key

    def begin(self) -> None:
        """Look again, at what came with the beginning of the training."""
        recording = _Recording(self, "begun:")
        for name, root in self.roots.items():
            recording.root(name, root)
        self._clocks += _clocks()

    def capture(self, store: StoreArray) -> dict[str, Node]:
        """Return the state of all objects, by key. Never raises for what it meets."""
        walk = _Walk(self, store)
        for name, root in self.roots.items():
            walk.root(name, root)
        return walk.nodes

    def covered(self) -> set[tuple[int, str]]:
        """Return what a capture looks at: (id of the object, attribute; "" for its content)."""
        walk = _Walk(self, lambda path, _: path)
        for name, root in self.roots.items():
            walk.root(name, root)
        found = set()
        for key, node in walk.nodes.items():
            owner = walk.ids[key]
            if "content" in node or "same" in node:
                found.add((owner, ""))
            found |= {
                (owner, name)
                for name, value in node.get("fields", {}).items()
                if not (isinstance(value, dict) and value.keys() & {"!origin", "!carried"})
            }
        return found

    def restore(self, nodes: Mapping[str, Node], load: LoadArray) -> None:
        """Fill all objects with a captured state.

        Raises:
            CheckpointError: it is none.
        """
        try:
            _Restoring(self, nodes, load).run()
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise CheckpointError(f"state of objects that can't be read back: {error}") from error

    # ------------------------------------------------------------------ what it knows

    def may_copy(self, size: int) -> bool:
        """Whether an array of that many bytes may be held, to be compared."""
        fits = size <= min(MOST_COMPARED, MOST_COPIED - self._copied)
        self._copied += size if fits else 0
        return fits

    def say(self, text: str) -> None:
        """Warn, once."""
        if text not in self._said:
            self._said.add(text)
            self._warn(text)

    def meet(self, cls: type) -> None:
        """Take note of a class of the program, and of its module."""
        self._classes.setdefault((cls.__module__, cls.__qualname__), cls)
        if cls.__module__ not in self._modules and objects.is_program(cls.__module__):
            self._modules.add(cls.__module__)
            for value in list(vars(sys.modules.get(cls.__module__, cls)).values()):
                if kind_of(value) is Kind.CLASS:
                    self._classes.setdefault((value.__module__, value.__qualname__), value)

    def class_of(self, name: Sequence[str], kind: Kind) -> type:
        """Return a class that the program has shown.

        Raises:
            NotPlainError: it has shown none of that name and kind.
        """
        cls = self.named(name)
        if cls is None or objects.kind_of_instances(cls) is not kind:
            raise NotPlainError(f"a {'.'.join(name)}, which is not found in the program's modules")
        return cls

    def named(self, name: Sequence[str]) -> type | None:
        """Return a class that was met, or stands in a module of the program."""
        return self._classes.get((name[0], name[1]))

    def shows(self, cls: type) -> bool:
        """Whether a class is one that the program's modules show."""
        known = self._classes.get((cls.__module__, cls.__qualname__))
        return known is cls and objects.is_program(cls.__module__)

    def is_of_the_clock(self, value: Any) -> bool:
        """Whether a value set at the beginning of the training tells when that was."""
        if type(value) is datetime:
            return abs(datetime.now(value.tzinfo) - value) < AMBIENT
        if type(value) is not float:
            return False
        return abs(value - time.time()) < AMBIENT.total_seconds() or any(
            low <= value <= high
            for low, high in zip(self._clocks[:2], self._clocks[2:4], strict=False)
        )


def _clocks() -> list[float]:
    return [time.monotonic(), time.perf_counter()]


def name_of(path: str) -> str:
    """Return a place as people write it."""
    parts = path.removeprefix("begun:").rsplit("<locals>.", 1)[-1].split("/")
    hidden = ("class:", "function:", "self:", "keywords:", "args:")
    shown = [p.split(":", 1)[-1] for p in parts if p not in hidden and not p.startswith("base:")]
    return ".".join(shown)


class _Walk:
    """One look at all objects: their state as JSON, each object once."""

    prefix: str | None = None  #: of keys for objects that have none yet; None: they are new

    def __init__(self, graph: Graph, store: StoreArray) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self.ids: dict[str, int] = {}
        self._store = store
        self._met: dict[int, str] = {}
        self._order: list[tuple[str, Any]] = []  # keeps what is met alive: ids are of living ones
        self._left = MOST_OBJECTS
        self._number = 0

    def root(self, name: str, root: Any) -> None:
        """Walk a root, unless it was met within another."""
        try:
            self._reference(root, kind_of(root), name, 0)
        except Exception as error:  # noqa: BLE001 - nothing that is met may end the training
            self._refuse(name, error)

    # ------------------------------------------------------------------ values

    def _value(self, value: Any, path: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TooMuchError(f"{path}: more than {MOST_OBJECTS:,} values")
        if depth > MAX_DEPTH:
            raise NotPlainError(f"{path}: nested deeper than {MAX_DEPTH} levels")
        kind = kind_of(value)
        if kind is Kind.LEAF:
            return encode_leaf(value, path)
        if kind in (Kind.TUPLE, Kind.NAMED):
            items = [self._value(v, f"{path}/{i}", depth + 1) for i, v in enumerate(value)]
            if kind is Kind.TUPLE:
                return {"!tuple": items}
            return {"!named": [self._class(value, kind), items]}
        if kind is Kind.ENUM:
            return {"!enum": [self._class(value, kind), self._member(value, path)]}
        if kind is Kind.FROZEN:
            return {"!frozenset": self._hashed(value, path, depth)}
        if kind is Kind.TENSOR:
            return {"!tensor": self._store(path, check_array(np.asarray(value), path))}
        if kind is Kind.FILE and files.is_standard(value):
            kind = Kind.MACHINERY
        plain = kind in (Kind.CARRIED, Kind.MACHINERY, Kind.OPAQUE)
        later = kind is Kind.CLASS and self.prefix is None and id(value) not in self.graph.keys
        if plain or later or id(value) in self.graph.apart:
            return self._origin(value, kind, path)
        if kind is Kind.OBJECT and objects.is_machine(value):
            return self._origin(value, Kind.OPAQUE, path)
        if kind in objects.CODE and not fields_of(value):
            return self._origin(value, kind, path)
        return self._reference(value, kind, path, depth)

    def _class(self, value: Any, kind: Kind) -> list[str]:
        cls = type(value)
        name = [cls.__module__, cls.__qualname__]
        if self.prefix is None:
            self.graph.class_of(name, kind)
        else:
            self.graph.meet(cls)
        return name

    def _member(self, value: Any, path: str) -> str:
        name: str | None = object.__getattribute__(value, "__dict__").get("_name_")
        if name is None or type(value).__members__.get(name) is not value:
            raise NotPlainError(f"{path}: a combination of flags")
        return name

    def _hashed(self, values: Iterable[Any], path: str, depth: int) -> list[Any]:
        return sorted_items([self._key(v, path, depth) for v in list(values)])

    def _key(self, value: Any, path: str, depth: int) -> Any:
        """A dictionary's key or a set's member: hashed before anything else is filled."""
        if kind_of(value) in (Kind.OBJECT, *objects.CODE):
            return self._origin(value, Kind.OBJECT, path)
        return self._value(value, f"{path}/key", depth + 1)

    def _origin(self, value: Any, kind: Kind, path: str) -> Any:
        """Something that stays what the program makes it, or becomes another such thing."""
        name = value.__name__ if kind is Kind.CLASS else ""
        if name and MADE.get(name, _MISSING) is value:
            return {"!type": name}
        for operation, function in _OPERATIONS.items():
            if value is function:
                return {"!operation": operation}
        key = self.graph.keys.get(id(value))
        if key is not None:
            if kind is Kind.OPAQUE and value is not sys.stdout and value is not sys.stderr:
                self._name(path, f"{_kind_name(value)}, which may have a state of its own")
            return {"!origin": key}
        if kind is Kind.CARRIED:
            return {"!carried": None}
        if kind is Kind.CLASS and self.graph.shows(value):
            return {"!class": [value.__module__, value.__qualname__]}
        raise _came_later(value, path)

    # ------------------------------------------------------------------ objects

    def _reference(self, value: Any, kind: Kind, path: str, depth: int) -> Any:
        met = self._met.get(id(value))
        if met is not None:
            return {"!at": met}
        known = self.graph.keys.get(id(value))
        key = known or self._new_key(value, kind, path)
        path = known.removeprefix("begun:") if known else path
        self._met[id(value)] = key
        self.ids[key] = id(value)
        self._order.append((key, value))
        node: Node = {"kind": kind.value}
        self.nodes[key] = node
        if kind in (Kind.OBJECT, Kind.LIST, Kind.DICT, Kind.SET, Kind.DEQUE, Kind.BYTES):
            node["class"] = [type(value).__module__, type(value).__qualname__]
        if kind not in (Kind.CARRIED, *objects.WITH_FIELDS):
            self._content(key, value, kind, path, depth, node)
        if kind in (Kind.CARRIED, *objects.WITH_FIELDS) or objects.own_attributes(value):
            self._fields(key, value, path, depth, node)
        return {"!at": key}

    def _new_key(self, value: Any, kind: Kind, path: str) -> str:
        """A key for an object that the training made: it must be possible to make it again."""
        cls = type(value)
        if kind in _GIVEN_ONLY or (kind is Kind.BITS and cls.__name__ not in _BITS):
            raise _came_later(value, path)
        if kind is Kind.OBJECT or (
            kind in objects.CONTAINERS
            and kind is not Kind.ARRAY
            and MADE.get(cls.__name__) is not cls
        ):
            self.graph.class_of([cls.__module__, cls.__qualname__], kind)
        self._number += 1
        return f"#{self._number}"

    def _content(self, key: str, value: Any, kind: Kind, path: str, depth: int, node: Node) -> None:
        content = _MISSING
        copy: Any = self.graph.copies.get(key)
        changed = self.graph.changed.setdefault(key, set()) if copy is not None else {""}
        if "" not in changed:
            if kind in (Kind.BYTES, Kind.ARRAY):
                same = bool(_array_print(value, whole=copy[-1] is not None) == copy)
            else:
                items, first = _items(value), self.graph.first[key]
                same = _are(items, copy)
                if not first["flat"]:  # what stands in it may have changed itself
                    content = self._contents(value, kind, path, depth)
                    same = same or _same(content, first["content"])
            if not same:
                changed.add("")
        if "" not in changed:
            node["same"] = _print(self.graph.first[key])
            sampled = kind is Kind.ARRAY and copy[-1] is None
            if not sampled or "/global:" in path or "/closure:" in path:
                return  # a script's large arrays are its data
        if content is _MISSING:
            content = self._contents(value, kind, path, depth)
        node["content"] = content

    def _contents(self, value: Any, kind: Kind, path: str, depth: int) -> Any:
        if kind is Kind.LIST or kind is Kind.DEQUE:
            return self._sequence(value, path, depth)
        if kind is Kind.SET:
            return {"items": self._hashed(value, path, depth)}
        if kind is Kind.DICT:
            return self._mapping(value, path, depth)
        if kind is Kind.BYTES:
            return encode_leaf(bytes(value), path)
        if kind is Kind.ARRAY:
            return self._store(path, check_array(value, path))
        if kind is Kind.FILE:
            position, length, content = files.look(value)
            stored = None if content is None else self._store(path, content)
            return [position, length, stored]
        if kind is Kind.MEMORY:
            return encode(files.look_in_memory(value), self._store, path)
        return self._generator(value, kind, path, depth)

    def _sequence(self, value: Any, path: str, depth: int) -> Any:
        items = list(value)
        content: dict[str, Any] = {}
        if kind_of(value) is Kind.DEQUE:
            content["most"] = value.maxlen
        if len(items) >= MANY and set(map(type, items)) == {float}:
            return content | {"floats": self._store(path, np.array(items, dtype=np.float64))}
        found = [
            v if type(v) in AS_IN_JSON else self._value(v, f"{path}/{i}", depth + 1)
            for i, v in enumerate(items)
        ]
        return content | {"items": found}

    def _mapping(self, value: Any, path: str, depth: int) -> Any:
        content: dict[str, Any] = {"pairs": []}
        if issubclass(type(value), collections.defaultdict):
            content["factory"] = self._value(value.default_factory, f"{path}/factory:", depth + 1)
        items = _items(value)
        half = len(items) // 2
        for index, (key, inner) in enumerate(zip(items[:half], items[half:], strict=True)):
            if type(key) not in AS_IN_JSON:
                key = self._key(key, f"{path}/@{index}", depth)
            if type(inner) not in AS_IN_JSON:
                plain = type(key) in AS_IN_JSON and len(str(key)) <= LONGEST
                place = f"{path}/{key if plain else f'@{index}'}"
                inner = self._value(inner, place, depth + 1)
            content["pairs"].append([key, inner])
        return content

    def _generator(self, value: Any, kind: Kind, path: str, depth: int) -> Any:
        if kind is Kind.GENERATOR:
            return self._value(value.bit_generator, f"{path}/bits", depth + 1)
        if kind is Kind.RANDOM:
            return encode(random.Random.getstate(value), self._store, path)
        if kind is Kind.RANDOM_STATE:
            return encode(value.get_state(legacy=False), self._store, path)
        spawned = getattr(value.seed_seq, "n_children_spawned", 0)
        return [type(value).__name__, encode(value.state, self._store, path), spawned]

    def _fields(self, key: str, owner: Any, path: str, depth: int, node: Node) -> None:
        fields = node["fields"] = {}
        kept, begun = [], []
        given = self.graph.given.get(key)
        changed = self.graph.changed.setdefault(key, set()) if given is not None else None
        found = fields_of(owner)
        for name, value in found.items():
            encoded = self._field(owner, value, f"{path}/{name}", depth)
            if encoded is _MISSING:
                continue
            fields[name] = encoded
            if changed is None or given is None:
                continue
            if name not in changed and not self._is_given(key, name, value, encoded):
                changed.add(name)
            if name not in changed:
                kept.append(name)
            elif self._is_of_begin(key, name, value):
                begun.append(name)
        gone = sorted((given or {}).keys() - found.keys())
        node |= {k: v for k, v in (("kept", kept), ("begun", begun), ("gone", gone)) if v}

    def _field(self, owner: Any, value: Any, path: str, depth: int) -> Any:
        if path in self.graph.left_out:
            self._refuse(path, self.graph.left_out[path])
            return _MISSING
        if depth == 0:
            self._left = MOST_OBJECTS
        mark = len(self._order)
        try:
            return self._value(value, path, depth + 1)
        except Exception as error:  # noqa: BLE001 - nothing that is met may end the training
            for key, met in self._order[mark:]:
                del self.nodes[key], self._met[id(met)]
            del self._order[mark:]
            if isinstance(error, TooMuchError):
                self.graph.left_out[path] = error
            if not _is_kerass(owner):
                self._refuse(path, error)
            return _MISSING

    def _is_given(self, key: str, name: str, value: Any, encoded: Any) -> bool:
        given = self.graph.given[key].get(name, _MISSING)
        if value is given and kind_of(value) in (Kind.LEAF, Kind.TENSOR):
            return True
        return _same(encoded, self.graph.first[key]["fields"].get(name, _MISSING))

    def _is_of_begin(self, key: str, name: str, value: Any) -> bool:
        """Whether on_train_begin set it to what another process sets otherwise, for its own."""
        if self.graph.begun.get(key, {}).get(name, _MISSING) is not value:
            return False
        is_place = issubclass(type(value), PurePath) or (type(value) is str and os.sep in value)
        return is_place or self.graph.is_of_the_clock(value)

    def _name(self, path: str, reason: str) -> None:
        self.graph.say(
            f"{name_of(path)} is not saved in checkpoints ({reason}): after a resume it is what "
            "the program sets it to. If it matters, give the callback get_state() and set_state()."
        )

    def _refuse(self, path: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, NotPlainError) else f"{type(error).__name__}"
        place, _, rest = reason.partition(": ")
        if rest and place.startswith(path.split("/", 1)[0]):
            inside = name_of(place).removeprefix(name_of(path)).lstrip(".")
            reason = f"{rest} in {inside}" if inside else rest
        self._name(path, reason)


class TooMuchError(NotPlainError):
    """More values than can be looked at within a step."""


class _Recording(_Walk):
    """The first look: gives everything its key, and holds what the program gave."""

    def __init__(self, graph: Graph, prefix: str) -> None:
        super().__init__(graph, lambda _path, array: str(zlib.crc32(array.tobytes())))
        self.prefix = prefix

    def _origin(self, value: Any, kind: Kind, path: str) -> Any:
        if id(value) not in self.graph.keys:
            self._take(path, value)
        return super()._origin(value, Kind.MACHINERY if kind is Kind.OPAQUE else kind, path)

    def _new_key(self, value: Any, kind: Kind, path: str) -> str:  # noqa: ARG002
        return self._take(path, value)

    def _take(self, path: str, value: Any) -> str:
        key = f"{self.prefix}{path}"
        while key in self.graph.objects:  # two keys of a dictionary may be written alike
            key += "'"
        self.graph.hold(key, value)
        self.graph.meet(value if kind_of(value) is Kind.CLASS else type(value))
        return key

    def _content(self, key: str, value: Any, kind: Kind, path: str, depth: int, node: Node) -> None:
        if kind not in objects.CONTAINERS:
            if kind is Kind.GENERATOR:
                self._value(value.bit_generator, f"{path}/bits", depth + 1)
            return
        if kind in (Kind.BYTES, Kind.ARRAY):
            copy: Any
            whole = kind is Kind.BYTES or self.graph.may_copy(value.nbytes)
            node["content"] = copy = _array_print(value, whole=whole)
            node["text"] = f"{value.dtype}{list(value.shape)}" if kind is Kind.ARRAY else ""
        else:
            copy = _items(value)
            kinds = set(map(objects.kind_of_instances, set(map(type, copy))))
            node["flat"] = kinds <= {Kind.LEAF, Kind.TENSOR}
            node["text"] = (
                reprlib.repr(value) if node["flat"] and type(value) in MADE.values() else ""
            )
            node["content"] = self._contents(value, kind, path, depth)
        if not self.prefix:
            self.graph.copies.setdefault(key, copy)

    def _fields(self, key: str, owner: Any, path: str, depth: int, node: Node) -> None:
        self.graph.meet(type(owner))
        fields = node["fields"] = {}
        found = fields_of(owner)
        for name, value in found.items():
            encoded = self._field(owner, value, f"{path}/{name}", depth)
            if encoded is not _MISSING:
                fields[name] = encoded
        (self.graph.begun if self.prefix else self.graph.given).setdefault(key, found)
        if not self.prefix:
            self.graph.first.setdefault(key, node)

    def _reference(self, value: Any, kind: Kind, path: str, depth: int) -> Any:
        found = super()._reference(value, kind, path, depth)
        if not self.prefix:
            self.graph.first.setdefault(found["!at"], self.nodes[found["!at"]])
        return found

    def _refuse(self, path: str, error: Exception) -> None:
        """Say nothing: what can't be taken matters only if it changes."""


class LostError(NotPlainError):
    """A value that has no place in this process."""


class _Restoring:
    """One state, put into the objects that are here."""

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], load: LoadArray) -> None:
        self._graph = graph
        self._nodes = nodes
        self._load = load
        self._here: dict[str, Any] = {}
        self._made: set[str] = set()

    def run(self) -> None:
        """Find each object's counterpart, make what has none, then fill them."""
        nodes = {k: n for k, n in self._nodes.items() if _root(k) in (None, *self._graph.roots)}
        for key, node in nodes.items():
            found = self._graph.objects.get(key, _MISSING)
            if found is not _MISSING and self._fits(found, node):
                self._here[key] = found
        for key, node in nodes.items():
            if key not in self._here and _is_unchanged(node):
                self._differs(name_of(key), "", "")
                continue
            try:
                self._fill(self._object(key), key, node)
            except LostError as error:
                if not key.startswith("#"):  # else the one who has it says so
                    self._lose(name_of(key), error)

    def _fits(self, here: Any, node: Node) -> bool:
        kind = kind_of(here)
        if kind.value != node["kind"]:
            return False
        if kind is Kind.OBJECT:
            return bool(type(here).__qualname__ == node["class"][1])
        if kind is Kind.BITS:
            return bool(type(here).__name__ == node["content"][0])
        if kind is Kind.ARRAY and "same" not in node:
            saved = self._load(node["content"])
            same = (saved.shape, saved.dtype) == (here.shape, here.dtype)
            return same and bool(here.flags.writeable)
        return True

    def _object(self, key: str) -> Any:
        if key not in self._here:
            made = self._make(self._nodes[key])
            self._here[key] = made
            self._made.add(key)
        return self._here[key]

    def _make(self, node: Node) -> Any:
        kind = Kind(node["kind"])
        if "content" not in node and "fields" not in node:
            raise LostError(f"a {kind.value} that the program does not give any more")
        content = node.get("content")
        if kind is Kind.OBJECT:
            return object.__new__(self._class(node["class"], kind))
        if kind is Kind.ARRAY:
            return self._load(node["content"])
        if kind is Kind.GENERATOR:
            return np.random.Generator(self._value(content))
        if kind is Kind.BITS:
            return _BITS[node["content"][0]](0)
        if kind in (Kind.RANDOM, Kind.RANDOM_STATE):
            return random.Random() if kind is Kind.RANDOM else np.random.RandomState(0)
        if kind is Kind.MEMORY:
            is_text = isinstance(node["content"]["content"], str)
            return io.StringIO(newline="") if is_text else io.BytesIO()
        if kind in objects.CONTAINERS:
            return self._empty(kind, node)
        raise LostError(f"a {kind.value} that is not there any more")

    def _empty(self, kind: Kind, node: Node) -> Any:
        module, name = node["class"]
        known = MADE.get(name) if module in ("builtins", "collections") else None
        cls: Any = known or self._class(node["class"], kind)
        if objects.kind_of_instances(cls) is not kind:
            raise LostError(f"a {name}")
        base: Any = next(base for base in cls.__mro__ if base in MADE.values())
        made = base.__new__(cls)
        if base is collections.deque:
            base.__init__(made, (), node["content"]["most"])
        elif base is collections.defaultdict:
            base.__init__(made, self._value(node["content"]["factory"]))
        return made

    def _class(self, name: Sequence[str], kind: Kind) -> Any:
        try:
            return self._graph.class_of(name, kind)
        except NotPlainError as error:
            raise LostError(str(error)) from error

    # ------------------------------------------------------------------ values

    def _value(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._value(item) for item in data]
        if not isinstance(data, dict):
            return data
        ((name, inner),) = data.items()
        match name:
            case "!at":
                return self._object(inner)
            case "!origin":
                found = self._graph.objects.get(inner, _MISSING)
                if found is _MISSING:
                    raise LostError(f"{name_of(inner)}, which is not there any more")
                return found
            case "!carried":
                raise LostError("a part of a model that another process makes anew")
            case "!type":
                return MADE[inner]
            case "!class":
                return self._shown(inner)
            case "!operation":
                return _OPERATIONS[inner]
            case "!tensor":
                return keras.ops.convert_to_tensor(self._load(inner))
            case "!tuple":
                return tuple(map(self._value, inner))
            case "!frozenset":
                return frozenset(map(self._value, inner))
            case "!named":
                items = map(self._value, inner[1])
                return tuple.__new__(self._class(inner[0], Kind.NAMED), items)
            case "!enum":
                members = self._class(inner[0], Kind.ENUM).__members__
                if inner[1] not in members:
                    raise LostError(f"{inner[0][1]}.{inner[1]}, which is not there any more")
                return members[inner[1]]
            case _:
                return decode(data, self._load)

    def _shown(self, name: Sequence[str]) -> type:
        cls = self._graph.named(name)
        if cls is None or not self._graph.shows(cls):
            raise LostError(f"the class {name[1]}, which is not found in the program's modules")
        return cls

    # ------------------------------------------------------------------ filling

    def _fill(self, here: Any, key: str, node: Node) -> None:
        is_container = Kind(node["kind"]) in objects.CONTAINERS
        if "content" in node or is_container:
            try:
                if is_container:
                    self._fill_container(here, key, node)
                else:
                    self._set_state(here, Kind(node["kind"]), node["content"])
            except (NotPlainError, OSError, BufferError) as error:
                self._lose(name_of(key), error)
        if "fields" in node:
            self._fill_fields(here, key, node)

    def _fill_container(self, here: Any, key: str, node: Node) -> None:
        if "same" in node and key not in self._made and key in self._graph.copies:
            now = self._graph.first[key]
            if _print(now) != node["same"]:
                self._differs(name_of(key), now["text"], node["same"][1])
                return
            if "content" not in node:
                copy = self._graph.copies[key]
                if isinstance(copy, list) and not _are(_items(here), copy):  # none of arrays
                    _refill(here, copy)
                return
        if key in self._graph.copies:
            self._graph.changed.setdefault(key, set()).add("")
        if key in self._made and kind_of(here) is Kind.ARRAY:
            return
        _refill(here, self._items(node["content"], kind_of(here)))

    def _items(self, content: Any, kind: Kind) -> Any:
        if kind is Kind.ARRAY:
            return self._load(content)
        if kind is Kind.BYTES:
            return decode(content, self._load)
        if "floats" in content:
            return self._load(content["floats"]).tolist()
        if kind is Kind.DICT:
            pairs = content["pairs"]
            return [*(self._value(k) for k, _ in pairs), *(self._value(v) for _, v in pairs)]
        return self._value(content["items"])

    def _set_state(self, here: Any, kind: Kind, content: Any) -> None:
        if kind is Kind.FILE:
            position, length, stored = content
            array = None if stored is None else self._load(stored)
            files.put_back(here, position, length, array)
        elif kind is Kind.MEMORY:
            saved = decode(content, self._load)
            here.seek(0)
            here.truncate()
            here.write(saved["content"])
            here.seek(saved["position"])
        elif kind is Kind.RANDOM:
            random.Random.setstate(here, decode(content, self._load))
        elif kind is Kind.RANDOM_STATE:
            here.set_state(decode(content, self._load))
        elif kind is Kind.BITS:
            here.state = decode(content[1], self._load)
            spawned = getattr(here.seed_seq, "n_children_spawned", 0)
            if content[2] > spawned:
                here.seed_seq.spawn(content[2] - spawned)

    def _fill_fields(self, here: Any, key: str, node: Node) -> None:
        kept, begun = set(node.get("kept", ())), set(node.get("begun", ()))
        given = self._graph.given.get(key, {}) if key not in self._made else {}
        now = fields_of(here)
        for name, data in node["fields"].items():
            path = f"{name_of(key)}.{name.split(':')[-1]}".removesuffix(".")
            if name in kept and key not in self._made:
                self._keep(here, key, name, data, now, path)
                continue
            if given:
                self._graph.changed.setdefault(key, set()).add(name)
            try:
                value = self._value(data)
                ambient = name in begun and name in now and _is_ambient(value, now[name])
                if now.get(name, _MISSING) is not value and not ambient:
                    fields.set_field(here, name, value)
                if name in begun:
                    self._graph.begun.setdefault(key, {})[name] = fields_of(here)[name]
            except NotPlainError as error:
                if not (isinstance(data, dict) and "!carried" in data) and fields.is_settable(name):
                    self._lose(path, error)
        for name in node.get("gone", ()):
            fields.delete_field(here, name)

    def _keep(self, here: Any, key: str, name: str, data: Any, now: Any, path: str) -> None:
        """Leave what was given as the program gives it now; say if that is another."""
        given = self._graph.given[key].get(name, _MISSING)
        inner: Any = data.get("!at") if isinstance(data, dict) else None
        if inner in self._made:
            fields.set_field(here, name, self._here[inner])  # of another form than is given now
            return
        if given is _MISSING or not fields.is_settable(name):
            return
        if now.get(name, _MISSING) is not given:
            fields.set_field(here, name, given)
        first = self._graph.first[key]["fields"].get(name, _MISSING)
        derived = name.startswith("_") and _is_kerass(here)
        if not (derived or _same(first, data) or self._graph.is_of_the_clock(given)):
            self._differs(path, _text(given), self._text_of(data))

    def _text_of(self, data: Any) -> str:
        try:
            return _text(self._value(data))
        except (NotPlainError, CheckpointError):
            return ""

    def _differs(self, name: str, now: str, was: str) -> None:
        if now and was and now != was:
            self._graph.say(f"{name} is {now} now, was {was}: the program's is taken.")
        else:
            self._graph.say(f"{name} is another now than it was: the program's is taken.")

    def _lose(self, name: str, error: Exception) -> None:
        self._graph.say(f"{name} is not restored ({error}): it is what the program sets it to.")


# ---------------------------------------------------------------------- small things


def _root(key: str) -> str | None:
    """The root below which an object stood; None: the training made it."""
    return None if key.startswith("#") else key.removeprefix("begun:").split("/", 1)[0]


def _is_unchanged(node: Node) -> bool:
    kept = bool(node.get("kept")) and len(node["kept"]) == len(node["fields"])
    return "same" in node or ("content" not in node and kept and "gone" not in node)


def _items(value: Any) -> list[Any]:
    """What a container holds, in its order; of a dictionary all keys, then all values."""
    for base in (collections.OrderedDict, dict):
        if issubclass(type(value), base):
            return [*base.keys(value), *base.values(value)]
    return list(value)


def _refill(here: Any, items: Any) -> None:
    """Give a container another content, in place, by the methods of its plain kind."""
    kind = kind_of(here)
    if kind is Kind.ARRAY:
        here[...] = items
    elif kind is Kind.LIST:
        list.__setitem__(here, slice(None), items)
    elif kind is Kind.BYTES:
        bytearray.__setitem__(here, slice(None), items)
    elif kind is Kind.DEQUE:
        collections.deque.clear(here)
        collections.deque.extend(here, items)
    elif kind is Kind.SET:
        set.clear(here)
        set.update(here, items)
    else:
        base: Any = collections.OrderedDict if isinstance(here, collections.OrderedDict) else dict
        base.clear(here)
        half = len(items) // 2
        for key, value in zip(items[:half], items[half:], strict=True):
            base.__setitem__(here, key, value)


def _array_print(value: Any, *, whole: bool) -> tuple[Any, ...]:
    """What an array is compared by: all of it, or a sample that many a change changes."""
    if kind_of(value) is Kind.BYTES:
        return ("bytes", bytes(value))
    kind = (value.dtype.str, *value.shape)
    if value.dtype.hasobject:
        return (*kind, math.nan)  # equal to nothing
    if whole:
        return (*kind, value.tobytes())
    flat = value.reshape(-1) if value.flags.c_contiguous else value.flat
    return (*kind, flat[:: max(value.size // 4096, 1)].tobytes(), flat[-64:].tobytes(), None)


def _print(first: Node) -> list[Any]:
    if "print" not in first:
        first["print"] = [zlib.crc32(marshal.dumps(first["content"], 2)), first["text"]]
    found: list[Any] = first["print"]
    return found


def _are(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _same(one: Any, other: Any) -> bool:
    """Whether two pieces of JSON are the same: 1, 1.0 and True are not, nor 0.0 and -0.0."""
    if one is _MISSING or other is _MISSING or one != other:
        return False
    return marshal.dumps(one, 2) == marshal.dumps(other, 2)


def _is_ambient(saved: Any, here: Any) -> bool:
    """Whether the program's own is right: a time of its clock, a place that is there."""
    if isinstance(saved, str | PurePath):
        return not os.path.exists(saved) and os.path.exists(str(here))  # noqa: PTH110
    return True


def _is_kerass(owner: Any) -> bool:
    return str(type(owner).__module__).startswith("keras.")


def _came_later(value: Any, path: str) -> NotPlainError:
    return NotPlainError(f"{path}: {_kind_name(value)} that was not there at the beginning")


def _kind_name(value: Any) -> str:
    cls = type(value)
    return f"a {cls.__module__}.{cls.__qualname__}"


def _text(value: Any) -> str:
    kinds = (*MADE.values(), type(None), PurePath, np.generic)
    return reprlib.repr(value) if issubclass(type(value), kinds) else ""
