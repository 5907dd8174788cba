"""A look at all objects of a training: their state as JSON, each object once.

The first looks hold what the program gave. Each later one is a capture: it separates what is as
it was given from what has changed, and names what can't be saved. None ever raises for what it
meets, or runs code of it.
"""

import collections
import operator
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from runner.checkpoint import plain
from runner.checkpoint.plain import NotPlainError, StoreArray
from runner.training.state import given as places
from runner.training.state import kinds
from runner.training.state.anatomy import is_of_keras
from runner.training.state.fields import fields_of
from runner.training.state.given import MISSING, Fields, Given, Node, Place, name_of
from runner.training.state.kinds import CODE, CONTAINERS, IMMUTABLE, Kind, kind_of

MOST_OBJECTS = 100_000  #: in one attribute: more would keep the training waiting at each checkpoint
LONGEST = 64  #: characters of a key that are a part of a place's name
MANY = 1000  #: floats in a list travel as an array from this on


def add(given: Given, roots: Mapping[str, Any]) -> None:
    """Look at objects and all that they refer to, before the training changes them."""
    for name, root in roots.items():
        given.roots[name] = root
        given.hold(name, root)
    _First(given).look(roots)


def begin(given: Given) -> None:
    """Look again, at what came with the beginning of the training."""
    _First(given, begun=True).look(given.roots)
    given.end()


def capture(given: Given, store: StoreArray) -> dict[str, Node]:
    """Return the state of all objects, by key."""
    return _Look(given, store).look(given.roots)


def covered(given: Given) -> set[tuple[int, str]]:
    """Return what a capture looks at: (id of the object, attribute; "" for its content)."""
    look = _Look(given, lambda path, _: path)
    nodes = look.look(given.roots)
    return {(owner, name) for owner, key in look.met.items() for name in nodes[key]["fields"]}


class _Look:
    """A look at what the training has made of all objects.

    Each has a key: its place, or a number for new ones.
    """

    def __init__(self, given: Given, store: StoreArray) -> None:
        self._given = given
        self._store = store
        self.nodes: dict[str, Node] = {}
        self.met: dict[int, str] = {}  #: keys by id
        self._order: list[tuple[str, Any]] = []  # keeps what is met alive: ids are of living ones
        self._left = MOST_OBJECTS
        self._depth = 0
        self._number = 0

    def look(self, roots: Mapping[str, Any]) -> dict[str, Node]:
        """Look at all that some objects refer to."""
        for name, root in roots.items():
            try:
                self._reference(root, kind_of(root), name)
            except Exception as error:  # noqa: BLE001 - nothing that is met may end the training
                self._refuse(name, error)
        return self.nodes

    # ------------------------------------------------------------------ values

    def _value(self, value: Any, path: str) -> Any:
        if type(value) in plain.AS_IN_JSON:
            return value
        self._left -= 1
        if self._left < 0:
            raise NotPlainError(f"{path}: more than {MOST_OBJECTS:,} values")
        if self._depth > plain.MAX_DEPTH:
            raise NotPlainError(f"{path}: nested deeper than {plain.MAX_DEPTH} levels")
        self._depth += 1
        try:
            return self._encoded(value, kinds.precise_kind_of(value), path)
        finally:
            self._depth -= 1

    def _values(self, values: Iterable[Any], path: str) -> list[Any]:
        return [self._value(value, f"{path}/{index}") for index, value in enumerate(values)]

    def _encoded(self, value: Any, kind: Kind, path: str) -> Any:
        if kind is Kind.LEAF:
            return plain.encode_leaf(value, path)
        if self._is_of_new_parts(value, kind):
            return {"!carried": None}
        if kind in IMMUTABLE:
            return self._immutable(value, kind, path)
        if self._is_without_state(value, kind):
            return self._origin(value, kind, path)
        return self._reference(value, kind, path)

    def _is_of_new_parts(self, value: Any, kind: Kind) -> bool:
        """Whether it holds only variables and layers that each process makes, as in `build`."""
        if id(value) in self._given.keys:
            return False
        if kind not in (Kind.LIST, Kind.TUPLE, Kind.DICT):
            return kind is Kind.CARRIED
        inner = list(value.values() if kind is Kind.DICT else value)
        return bool(inner) and all(self._is_of_new_parts(part, kind_of(part)) for part in inner)

    def _immutable(self, value: Any, kind: Kind, path: str) -> Any:
        match kind:
            case Kind.TENSOR:
                return {"!tensor": self._store(path, plain.check_array(np.asarray(value), path))}
            case Kind.FROZEN:
                return {"!frozenset": self._hashed(value, path)}
            case Kind.ENUM:
                return {"!enum": [self._class_name(value, kind), _member(value, path)]}
            case Kind.TUPLE:
                return {"!tuple": self._values(value, path)}
            case _:
                items = self._values(value, path)
                return {"!named": [self._class_name(value, kind), items]}

    def _hashed(self, values: Iterable[Any], path: str) -> list[Any]:
        return plain.sorted_items([self._key(v, f"{path}/key") for v in list(values)])

    def _key(self, value: Any, path: str) -> Any:
        """A dictionary's key or a set's member: hashed before anything new is filled."""
        found = self._value(value, path)
        if isinstance(found, dict) and str(found.get("!at")).startswith("#"):
            raise _came_later(value, path)
        return found

    def _is_without_state(self, value: Any, kind: Kind) -> bool:
        """Whether it is not looked into: it stays what the program makes it."""
        if kind in (Kind.CARRIED, Kind.MACHINERY, Kind.OPAQUE) or id(value) in self._given.apart:
            return True
        if kind is Kind.CLASS and id(value) not in self._given.keys:
            return True
        return kind in CODE and not fields_of(value)

    def _origin(self, value: Any, kind: Kind, path: str) -> Any:
        """Something by the place where the program makes it, or by its name."""
        name = [value.__module__, value.__qualname__] if kind_of(value) is Kind.CLASS else None
        if name and plain.MADE.get(name[1]) is value:
            return {"!type": name[1]}
        key = self._given.keys.get(id(value))
        if key is not None:
            if kind is Kind.OPAQUE:
                self._warn(path, f"{_kind_name(value)}, which may have a state of its own")
            return {"!at": key}
        if kind is Kind.CARRIED:
            return {"!carried": None}
        if name and self._given.class_of(name) is value:
            return {"!class": name}
        raise _came_later(value, path)

    def _class_name(self, value: Any, kind: Kind) -> list[str]:
        name = [type(value).__module__, type(value).__qualname__]
        self._given.class_of(name, kind)
        return name

    # ------------------------------------------------------------------ objects

    def _reference(self, value: Any, kind: Kind, path: str) -> Any:
        if id(value) in self.met:
            return {"!at": self.met[id(value)]}
        known = self._given.keys.get(id(value))
        key, path = (known, known) if known else (self._new_key(value, kind, path), path)
        self.met[id(value)] = key
        self._order.append((key, value))
        cls = type(value)
        node: Node = {"kind": kind.value, "class": [cls.__module__, cls.__qualname__], "fields": {}}
        self.nodes[key] = node
        if kind not in (Kind.CARRIED, *kinds.WITH_FIELDS):
            self._add_content(key, value, kind, path)
        fields = fields_of(value)
        for name, inner in fields.items():
            self._add_field(node, value, name, inner, f"{path}/{name}")
        self._compare(key, fields, node)
        return {"!at": key}

    def _new_key(self, value: Any, kind: Kind, path: str) -> str:
        """A number for an object that the training made: it must be possible to make it again."""
        if kind in (*CODE, Kind.FILE):
            raise _came_later(value, path)
        if kind is Kind.OBJECT or (kind in CONTAINERS and kind is not Kind.ARRAY):
            self._class_name(value, kind)
        self._number += 1
        return f"#{self._number}"

    def _add_content(self, key: str, value: Any, kind: Kind, path: str) -> None:
        """Add what a container holds, or a print of it if it is what was given."""
        place, fields = self._given.places.get(key), self.nodes[key]["fields"]
        if kind not in CONTAINERS or place is None or place.first is None or "" in place.changed:
            fields[""] = self._content(value, kind, path)
        elif _is_untouched(value, kind, path, place):
            fields[""] = place.print
        else:
            fields[""] = self._content(value, kind, path)
            if place.was("", fields[""]):
                fields[""] = place.print
            else:
                place.changed.add("")

    def _content(self, value: Any, kind: Kind, path: str) -> Any:
        match kind:
            case Kind.LIST:
                return self._sequence(value, path)
            case Kind.DEQUE:
                return {"most": value.maxlen} | self._sequence(value, path)
            case Kind.SET:
                return {"items": self._hashed(value, path)}
            case Kind.DICT:
                return self._mapping(value, path)
            case Kind.BYTES:
                return plain.encode_leaf(bytes(value), path)
            case Kind.ARRAY:
                return self._store(path, plain.check_array(value, path))
            case _:
                return plain.encode(kinds.CALLS[kind].look(value), self._store, path)

    def _sequence(self, value: Any, path: str) -> dict[str, Any]:
        items = list(value)
        if len(items) >= MANY and set(map(type, items)) == {float}:
            return {"floats": self._store(path, np.array(items, dtype=np.float64))}
        return {"items": self._values(items, path)}

    def _mapping(self, value: Any, path: str) -> Any:
        content: dict[str, Any] = {"pairs": []}
        if issubclass(type(value), collections.defaultdict):
            content["factory"] = self._value(value.default_factory, f"{path}/factory:")
        items = places.items_of(value)
        half = len(items) // 2
        for index, (key, inner) in enumerate(zip(items[:half], items[half:], strict=True)):
            short = type(key) in plain.AS_IN_JSON and len(str(key)) <= LONGEST
            found = self._key(key, f"{path}/@{index}/key")
            inner = self._value(inner, f"{path}/{key if short else f'@{index}'}")
            content["pairs"].append([found, inner])
        return content

    def _add_field(self, node: Node, owner: Any, name: str, value: Any, path: str) -> None:
        if self._depth == 0:
            self._left = MOST_OBJECTS
        mark = len(self._order)
        try:
            node["fields"][name] = self._value(value, path)
        except Exception as error:  # noqa: BLE001 - nothing that is met may end the training
            for inner, met in self._order[mark:]:
                del self.nodes[inner], self.met[id(met)]
            del self._order[mark:]
            if not is_of_keras(type(owner)):
                self._refuse(path, error)

    def _compare(self, key: str, fields: Fields, node: Node) -> None:
        """Note which fields are as they were given, as on_train_begin set them, or gone."""
        place = self._given.places.get(key)
        if place is None or place.first is None:
            return
        found = node["fields"]
        place.note_changes(fields, found)
        marks = {
            "kept": place.kept(found),
            "begun": [n for n in found if n and self._is_begun(place, n, fields[n])],
            "gone": sorted(place.fields.keys() - fields.keys()),
        }
        node |= {mark: names for mark, names in marks.items() if names}

    def _is_begun(self, place: Place, name: str, value: Any) -> bool:
        """Whether on_train_begin set it, to another in another process for its own reasons."""
        if name not in place.changed or place.begun.get(name, MISSING) is not value:
            return False
        is_place = issubclass(type(value), PurePath) or (type(value) is str and os.sep in value)
        return is_place or self._given.is_of_the_clock(value)

    # ------------------------------------------------------------------ reporting

    def _refuse(self, path: str, error: Exception) -> None:
        place, _, reason = str(error).partition(": ")
        if not isinstance(error, NotPlainError):
            reason = type(error).__name__
        elif not reason:
            reason = str(error)
        elif place != path:
            reason = f"{reason}, at {name_of(place)}"
        self._warn(path, reason)

    def _warn(self, path: str, reason: str) -> None:
        self._given.warn(
            f"{name_of(path)} is not saved in checkpoints ({reason}): after a resume it is what "
            "the program sets it to. If it matters, give the callback get_state() and set_state()."
        )


class _First(_Look):
    """A look before the first step: gives everything its place, and holds what was given.

    Args:
        given: what is held.
        begun: on_train_begin was called: what it made has its place, and is state.
    """

    def __init__(self, given: Given, *, begun: bool = False) -> None:
        super().__init__(given, lambda _path, array: str(zlib.crc32(array.tobytes())))
        self._begun = begun

    def _encoded(self, value: Any, kind: Kind, path: str) -> Any:
        self._given.meet(type(value))
        if kind not in (Kind.LEAF, *IMMUTABLE) and id(value) not in self._given.keys:
            while path in self._given.places:  # two keys of a dictionary may be written alike
                path += "'"
            self._given.hold(path, value)
        return super()._encoded(value, kind, path)

    def _add_content(self, key: str, value: Any, kind: Kind, path: str) -> None:
        place, is_array = self._given.places[key], kind is Kind.ARRAY
        if kind not in CONTAINERS or (is_array and self._begun):
            return
        content = places.print_of_array(value, path) if is_array else None
        content = content or self._content(value, kind, path)
        if place.first is None and not self._begun:
            self.nodes[key]["fields"][""] = content
            place.print = places.print_of(content, value)
            place.items = () if is_array else places.items_of(value)

    def _compare(self, key: str, fields: Fields, node: Node) -> None:
        place = self._given.places[key]
        if self._begun:
            place.begun = dict(fields)
        elif place.first is None:
            place.fields, place.first = fields, node["fields"]

    def _warn(self, path: str, reason: str) -> None:
        """What can't be saved matters only if it changes."""


def _member(value: Any, path: str) -> str:
    name: str | None = object.__getattribute__(value, "__dict__").get("_name_")
    if name is None or type(value).__members__.get(name) is not value:
        raise NotPlainError(f"{path}: a combination of flags")
    return name


def _is_untouched(value: Any, kind: Kind, path: str, place: Place) -> bool:
    """Whether a container holds what it was given, and nothing that could change itself."""
    if kind is Kind.ARRAY:
        return place.first is not None and bool(
            places.print_of_array(value, path) == place.first[""]
        )
    items = places.items_of(value)
    same = len(items) == len(place.items) and all(map(operator.is_, items, place.items))
    found = set(map(kinds.kind_of_instances, set(map(type, items))))
    return same and found <= {Kind.LEAF, Kind.TENSOR}


def _kind_name(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _came_later(value: Any, path: str) -> NotPlainError:
    return NotPlainError(f"{path}: {_kind_name(value)} that was not there at the beginning")
