"""A captured state is put into the objects that stand in the same places in this process.

Reading makes only plain kinds, and instances of classes that the program itself shows (its
objects' and its modules'), without calling them. Nothing is imported or called by name.
"""

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import keras

from runner.checkpoint.plain import MADE, LoadArray, NotPlainError, decode
from runner.errors import CheckpointError
from runner.training import fields, objects, states
from runner.training.fields import fields_of
from runner.training.given import (
    MISSING,
    Fields,
    Given,
    Node,
    Place,
    are_same,
    name_of,
    text_of,
)
from runner.training.objects import CONTAINERS, Kind, kind_of


def restore(given: Given, nodes: Mapping[str, Node], load: LoadArray) -> None:
    """Fill all objects with a captured state.

    Raises:
        CheckpointError: it is none.
    """
    try:
        _Restoring(given, nodes, load).run()
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"state of objects that can't be read back: {error}") from error


class _Restoring:
    def __init__(self, given: Given, nodes: Mapping[str, Node], load: LoadArray) -> None:
        self._given = given
        self._nodes = {k: n for k, n in nodes.items() if _root(k) in (None, *given.roots)}
        self._load = load
        self._here: dict[str, Any] = {}
        self._made: set[str] = set()

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
                self._fill(self._object(key), key, node)
            except NotPlainError as error:
                if not key.startswith("#"):  # else the one who has it says so
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
            made = states.make(kind, decode(content, self._load))
        if made is None:
            raise NotPlainError(f"a {kind.value} that the program does not give any more")
        return made

    def _empty(self, kind: Kind, name: Sequence[str], content: Any) -> Any:
        cls = self._given.class_of(name, kind)
        base: Any = next(base for base in cls.__mro__ if base in MADE.values())
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
        ((name, inner),) = data.items()
        match name:
            case "!at":
                return self._object(inner)
            case "!carried":
                raise NotPlainError("a part of a model that another process makes anew")
            case "!type":
                return MADE[inner]
            case "!class":
                return self._given.class_of(inner)
            case _:
                return self._immutable(name, inner)

    def _immutable(self, name: str, inner: Any) -> Any:
        match name:
            case "!tensor":
                return keras.ops.convert_to_tensor(self._load(inner))
            case "!tuple":
                return tuple(map(self._value, inner))
            case "!frozenset":
                return frozenset(map(self._value, inner))
            case "!named":
                items = map(self._value, inner[1])
                return tuple.__new__(self._given.class_of(inner[0], Kind.NAMED), items)
            case "!enum":
                members: Any = self._given.class_of(inner[0], Kind.ENUM).__members__
                if inner[1] not in members:
                    raise NotPlainError(f"{inner[0][1]}.{inner[1]}, which is not there any more")
                return members[inner[1]]
            case _:
                return decode({name: inner}, self._load)

    # ------------------------------------------------------------------ filling

    def _fill(self, here: Any, key: str, node: Node) -> None:
        place = None if key in self._made else self._given.places.get(key)
        kept, now = node.get("kept", ()), fields_of(here)
        for name, data in node["fields"].items():
            path = f"{name_of(key)}.{name.split(':')[-1]}".removesuffix(".")
            if place is not None and name in kept:
                self._keep(here, place, name, data, now, path)
                continue
            try:
                if not name:
                    self._put(here, key, data)
                else:
                    self._set(here, name, self._value(data), now, place, node)
            except (NotPlainError, OSError, BufferError) as error:
                carried = isinstance(data, dict) and "!carried" in data
                if not carried and fields.is_settable(name):
                    self._lose(path, error)
            if place is not None:
                place.changed.add(name)
        for name in node.get("gone", ()):
            fields.delete_field(here, name)

    def _set(
        self, here: Any, name: str, value: Any, now: Fields, place: Place | None, node: Node
    ) -> None:
        found, begun = now.get(name, MISSING), name in node.get("begun", ())
        if begun and found is not MISSING and _is_of_here(value, found):
            value = found
        elif found is not value:
            fields.set_field(here, name, value)
        if begun and place is not None:
            place.begun[name] = value

    def _put(self, here: Any, key: str, data: Any) -> None:
        """Give an object its content."""
        kind = kind_of(here)
        if kind not in CONTAINERS:
            states.put_back(here, kind, decode(data, self._load))
        elif kind is not Kind.ARRAY or key not in self._made:
            _refill(here, kind, self._items(data, kind))

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

    def _keep(self, here: Any, place: Place, name: str, data: Any, now: Fields, path: str) -> None:
        """Leave what was given as the program gives it now; say if that is another."""
        if not name:
            self._keep_content(here, place, data, path)
            return
        inner: Any = data.get("!at") if isinstance(data, dict) else None
        if inner in self._made:
            fields.set_field(here, name, self._here[inner])  # of another form than is given now
            return
        given = place.fields.get(name, MISSING)
        if given is MISSING or not fields.is_settable(name):
            return
        if now.get(name, MISSING) is not given:
            fields.set_field(here, name, given)  # on_train_begin has set it
        derived = name.startswith("_") and objects.is_of_keras(here)
        same = derived or are_same((place.first or {}).get(name, MISSING), data)
        if not (same or self._given.is_of_the_clock(given)):
            self._differs(path, text_of(given), self._text_of(data))

    def _keep_content(self, here: Any, place: Place, saved: Any, path: str) -> None:
        if place.print != saved:
            self._differs(path, *place.print[1:], *saved[1:])
        elif kind_of(here) is not Kind.ARRAY:
            _refill(here, kind_of(here), place.items)  # on_train_begin may have changed it

    # ------------------------------------------------------------------ saying

    def _text_of(self, data: Any) -> str:
        try:
            return text_of(self._value(data))
        except (NotPlainError, CheckpointError):
            return ""

    def _differs(self, name: str, now: str = "", was: str = "") -> None:
        both = now and was and now != was
        words = f"{now} now, was {was}" if both else "another now than it was"
        self._given.say(f"{name} is {words}: the program's is taken.")

    def _lose(self, name: str, error: Exception) -> None:
        self._given.say(f"{name} is not restored ({error}): it is what the program sets it to.")


def _root(key: str) -> str | None:
    """The root below which an object stood; None: the training made it."""
    return None if key.startswith("#") else key.split("/", 1)[0]


def _is_unchanged(node: Node) -> bool:
    kept = node.get("kept", ())
    return bool(kept) and len(kept) == len(node["fields"]) and "gone" not in node


def _refill(here: Any, kind: Kind, items: Any) -> None:
    """Give a container another content, in place, by the methods of its plain kind."""
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


def _is_of_here(saved: Any, here: Any) -> bool:
    """Whether the program's own is right: a time of its clock, a place that is there."""
    if isinstance(saved, str | PurePath):
        return not os.path.exists(saved) and os.path.exists(str(here))  # noqa: PTH110
    return True
