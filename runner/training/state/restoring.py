"""A captured state is put into the objects that stand in the same places in this process.

Reading makes only plain kinds, and instances of classes that the program itself shows (its
objects' and its modules'), without calling them. Nothing is imported or called by name.
"""

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import keras

from runner.checkpoint.plain import MADE, LoadArray, NotPlainError, decode
from runner.errors import CheckpointError
from runner.training.state import fields
from runner.training.state.anatomy import is_of_keras
from runner.training.state.given import (
    MISSING,
    Fields,
    Given,
    Node,
    Place,
    name_of,
    text_of,
)
from runner.training.state.kinds import CALLS, CONTAINERS, Kind, kind_of


def restore(given: Given, nodes: Mapping[str, Node], load: LoadArray) -> None:
    """Fill all objects with a captured state.

    Raises:
        CheckpointError: it is none.
    """
    try:
        _Restoring(given, nodes, load).run()
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"state of objects that can't be read back: {error}") from error


@dataclass
class _Target:
    """An object that is being filled."""

    key: str
    here: Any
    node: Node
    now: Fields  #: before anything was set
    place: Place | None  #: None: the training made the object

    def path(self, name: str) -> str:
        """Return a field's name for people."""
        return f"{name_of(self.key)}.{name.split(':')[-1]}".removesuffix(".")


class _Restoring:
    def __init__(self, given: Given, nodes: Mapping[str, Node], load: LoadArray) -> None:
        self._given = given
        # of the objects below roots that are here, and of those that the training made
        roots = {"#", *given.roots}
        self._nodes = {k: n for k, n in nodes.items() if {k[:1], k.split("/", 1)[0]} & roots}
        self._load = load
        self._here: dict[str, Any] = {}
        self._made: set[str] = set()
        self._readers: dict[str, Callable[[Any], Any]] = {
            "!at": self._object,
            "!type": MADE.__getitem__,
            "!class": given.class_of,
            "!carried": self._carried,
            "!tensor": lambda name: keras.ops.convert_to_tensor(load(name)),
            "!tuple": lambda items: tuple(map(self._value, items)),
            "!frozenset": lambda items: frozenset(map(self._value, items)),
            "!named": self._named,
            "!enum": self._member,
        }

    def run(self) -> None:
        """Find each object's counterpart, make what has none, then fill them."""
        for key, node in self._nodes.items():
            place = self._given.places.get(key)
            if place is not None and self._fits(place.value, node):
                self._here[key] = place.value
        for key, node in self._nodes.items():
            if key not in self._here and _is_unchanged(node):
                self._differs(name_of(key))
                continue
            try:
                here = self._object(key)
                place = None if key in self._made else self._given.places.get(key)
                self._fill(_Target(key, here, node, fields.fields_of(here), place))
            except NotPlainError as error:
                if not key.startswith("#"):  # else the one who has it reports it
                    self._lose(name_of(key), error)

    def _fits(self, here: Any, node: Node) -> bool:
        kind = kind_of(here)
        if kind.value != node["kind"]:
            return False
        if kind is Kind.OBJECT:
            return bool(type(here).__qualname__ == node["class"][1])
        if kind is Kind.ARRAY and "" not in node.get("kept", ()):
            saved = self._load(node["fields"][""])
            same = (saved.shape, saved.dtype) == (here.shape, here.dtype)
            return same and bool(here.flags.writeable)
        return True

    # ------------------------------------------------------------------ making

    def _object(self, key: str) -> Any:
        if key in self._nodes and key not in self._here:
            self._here[key] = self._make(self._nodes[key])
            self._made.add(key)
        if key in self._here:
            return self._here[key]
        if key not in self._given.places:
            raise NotPlainError(f"{name_of(key)}, which is not there any more")
        return self._given.places[key].value

    def _make(self, node: Node) -> Any:
        kind = Kind(node["kind"])
        if kind is Kind.OBJECT:
            return object.__new__(self._given.class_of(node["class"], kind))
        made, content = None, node["fields"].get("")
        if content is not None and "" not in node.get("kept", ()):
            if kind is Kind.ARRAY:
                return self._load(content)
            if kind in CONTAINERS:
                return self._empty(kind, node["class"], content)
            made = CALLS[kind].make(decode(content, self._load))
        if made is None:
            raise NotPlainError(f"a {kind.value} that the program does not give any more")
        return made

    def _empty(self, kind: Kind, name: Sequence[str], content: Any) -> Any:
        cls = self._given.class_of(name, kind)
        base = _plain_base(cls)
        made = base.__new__(cls)
        if base is collections.deque:
            base.__init__(made, (), content["most"])
        elif base is collections.defaultdict:
            base.__init__(made, self._value(content["factory"]))
        return made

    # ------------------------------------------------------------------ values

    def _value(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._value(item) for item in data]
        if not isinstance(data, dict):
            return data
        ((tag, inner),) = data.items()
        read = self._readers.get(tag)
        return read(inner) if read is not None else decode(data, self._load)

    def _carried(self, _: Any) -> Any:
        raise NotPlainError("a part of a model that another process makes anew")

    def _named(self, inner: Any) -> Any:
        items = map(self._value, inner[1])
        return tuple.__new__(self._given.class_of(inner[0], Kind.NAMED), items)

    def _member(self, inner: Any) -> Any:
        members: Any = self._given.class_of(inner[0], Kind.ENUM).__members__
        if inner[1] not in members:
            raise NotPlainError(f"{inner[0][1]}.{inner[1]}, which is not there any more")
        return members[inner[1]]

    # ------------------------------------------------------------------ filling

    def _fill(self, target: _Target) -> None:
        place, kept = target.place, target.node.get("kept", ())
        for name, data in target.node["fields"].items():
            if place is None or name not in kept or (name and name in place.left):
                self._change(target, name, data)
            elif name:
                self._keep(target, place, name, data)
            else:
                self._keep_content(target, place, data)
        for name in target.node.get("gone", ()):
            fields.delete_field(target.here, name)

    def _change(self, target: _Target, name: str, data: Any) -> None:
        """Set what the training has changed."""
        try:
            if name:
                self._set(target, name, self._value(data))
            else:
                self._put(target, data)
        except (NotPlainError, OSError, BufferError) as error:
            carried = isinstance(data, dict) and "!carried" in data
            if not carried and fields.is_settable(name):
                self._lose(target.path(name), error)
        if target.place is not None:
            target.place.changed.add(name)

    def _set(self, target: _Target, name: str, value: Any) -> None:
        here, begun = target.now.get(name, MISSING), name in target.node.get("begun", ())
        if begun and here is not MISSING and _is_of_here(value, here):
            value = here
        elif here is not value:
            fields.set_field(target.here, name, value)
        if begun and target.place is not None:
            target.place.begun[name] = value

    def _put(self, target: _Target, data: Any) -> None:
        """Give an object its content."""
        kind = kind_of(target.here)
        if kind not in CONTAINERS:
            CALLS[kind].put_back(target.here, decode(data, self._load))
        elif kind is not Kind.ARRAY or target.key not in self._made:
            _refill(target.here, kind, self._items(data, kind))

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

    def _keep(self, target: _Target, place: Place, name: str, data: Any) -> None:
        """Leave what was given as the program gives it now; report it if that is another."""
        inner: Any = data.get("!at") if isinstance(data, dict) else None
        given = place.fields.get(name, MISSING)
        if inner in self._made:
            fields.set_field(target.here, name, self._here[inner])  # of another form than given now
            return
        if given is MISSING or not fields.is_settable(name):
            return
        if target.now.get(name, MISSING) is not given:
            fields.set_field(target.here, name, given)  # on_train_begin has set it
        derived = name.startswith("_") and is_of_keras(type(target.here))
        if not (derived or place.was(name, data) or self._given.is_of_the_clock(given)):
            self._differs(target.path(name), text_of(given), self._text_of(data))

    def _keep_content(self, target: _Target, place: Place, saved: Any) -> None:
        kind = kind_of(target.here)
        if place.print != saved:
            self._differs(target.path(""), *place.print[1:], *saved[1:])
        elif kind is not Kind.ARRAY:
            _refill(target.here, kind, place.items)  # on_train_begin may have changed it

    # ------------------------------------------------------------------ reporting

    def _text_of(self, data: Any) -> str:
        try:
            return text_of(self._value(data))
        except (NotPlainError, CheckpointError):
            return ""

    def _differs(self, name: str, now: str = "", was: str = "") -> None:
        both = now and was and now != was
        words = f"{now} now, was {was}" if both else "another now than it was"
        self._given.warn(f"{name} is {words}: the program's is taken.")

    def _lose(self, name: str, error: Exception) -> None:
        self._given.warn(f"{name} is not restored ({error}): it is what the program sets it to.")


def _is_unchanged(node: Node) -> bool:
    kept = node.get("kept", ())
    return bool(kept) and len(kept) == len(node["fields"]) and "gone" not in node


def _plain_base(cls: type) -> Any:
    """Return the plain kind of container that a class is, or builds on."""
    return next(base for base in cls.__mro__ if base in MADE.values())


def _refill(here: Any, kind: Kind, items: Any) -> None:
    """Give a container another content, in place, by the methods of its plain kind."""
    if kind is Kind.ARRAY:
        here[...] = items
        return
    base = _plain_base(type(here))
    if kind in (Kind.LIST, Kind.BYTES):
        base.__setitem__(here, slice(None), items)
        return
    base.clear(here)
    if kind is Kind.DEQUE:
        base.extend(here, items)
    elif kind is Kind.SET:
        base.update(here, items)
    else:
        half = len(items) // 2
        for key, value in zip(items[:half], items[half:], strict=True):
            base.__setitem__(here, key, value)


def _is_of_here(saved: Any, here: Any) -> bool:
    """Whether the program's own is right: a time of its clock, a place that is there."""
    if isinstance(saved, str | PurePath):
        return not os.path.exists(saved) and os.path.exists(str(here))  # noqa: PTH110
    return True
