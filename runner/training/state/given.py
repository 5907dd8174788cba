"""The Python objects of a training, each known by the place where it stood when `fit` began.

The program is the same in every process, so what stands at that place in a later process is the
same object. What it was given and never changed is configuration: what it is now is up to the
program. What changed is state: it is put into the object of that place, so that all who share it go
on sharing it.
"""

import collections
import marshal
import reprlib
import sys
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from runner.checkpoint.plain import MADE, NotPlainError
from runner.training.digest import of_array
from runner.training.state.anatomy import is_program
from runner.training.state.kinds import Kind, kind_of, kind_of_instances

MOST_COMPARED = 64 * 2**20  #: bytes of an array that is compared whole; of a larger one, a sample
AMBIENT = timedelta(days=30)  #: a time within it, set when the training begins, is of the clock
_HOLD_DATA = ("/global:", "/closure:", "/data/", "/validation data/")  #: in places of large arrays
MISSING: Any = object()
Node = dict[str, Any]  #: an object as JSON
Fields = Mapping[str, Any]  #: names and values


@dataclass
class Place:
    """What stood somewhere when the training began."""

    value: Any
    first: dict[str, Any] | None = None  #: its fields as JSON, as given; None: on_train_begin's
    fields: Fields = field(default_factory=dict)  #: and as values
    items: Sequence[Any] = ()  #: what a container held then
    print: Sequence[Any] = ()  #: and what that is compared by with another process's
    begun: dict[str, Any] = field(default_factory=dict)  #: its fields after on_train_begin
    changed: set[str] = field(default_factory=set)  #: fields that were ever others; "": content
    #: what was given, of the fields that are as an interrupted fit of this process left them
    left: dict[str, Any] = field(default_factory=dict)

    def note_changes(self, fields: Fields, found: Mapping[str, Any]) -> None:
        """Remember which fields are not what they were given.

        Args:
            fields: as values.
            found: as JSON, where they can be saved.
        """
        for name in fields.keys() & found.keys():
            if kind_of(fields[name]) is Kind.TENSOR:  # never changes
                same = fields[name] is self.fields.get(name, MISSING)
            else:
                same = self.was(name, found[name])
            if not same:
                self.changed.add(name)

    def kept(self, found: Mapping[str, Any]) -> list[str]:
        """Return the fields that never changed, of those that are found; "" for the content."""
        names = [name for name in found if name and name not in self.changed]
        return ["", *names] if found.get("", MISSING) is self.print else names

    def was(self, name: str, encoded: Any) -> bool:
        """Whether a field, or the content, was given as this JSON."""
        return are_same(encoded, (self.first or {}).get(name, MISSING))


class Given:
    """What some objects and all that they refer to were when the training began.

    Args:
        warn: called once for each text: what can't be saved or restored, what is configured
            otherwise.
    """

    def __init__(self, *, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._reported: set[str] = set()
        self.roots: dict[str, Any] = {}
        self.places: dict[str, Place] = {}
        self.keys: dict[int, str] = {}  #: of what stands there, by id
        self.apart: set[int] = set()  #: ids of objects whose get_state gives their state
        self._classes: dict[tuple[str, str], Any] = {}
        self._modules: set[str] = set()
        self._clocks = [_clocks()]
        for kind in MADE.values():
            self.meet(kind)

    def hold(self, key: str, value: Any) -> None:
        """Know an object by its place."""
        self.places[key] = Place(value)
        self.keys[id(value)] = key
        self.meet(value if kind_of(value) is Kind.CLASS else type(value))

    def is_state(self, root: str, names: Collection[str]) -> None:
        """Take note that fields of a root are state, also before the training changes them."""
        self.places[root].changed |= set(names) & self.places[root].fields.keys()
        for key, place in self.places.items():
            is_in = key.startswith(f"{root}/") and key.split("/")[1] in names
            if is_in and getattr(place.value, "nbytes", 0) <= MOST_COMPARED:
                place.changed |= {"", *place.fields}

    def end(self) -> None:
        """Take note that all is there that comes with the beginning of the training."""
        self._clocks.append(_clocks())

    def warn(self, text: str) -> None:
        """Warn, once."""
        if text not in self._reported:
            self._reported.add(text)
            self._warn(text)

    def is_of_the_clock(self, value: Any) -> bool:
        """Whether a value set at the beginning of the training is the time of that moment."""
        if type(value) is datetime:
            return abs(datetime.now(value.tzinfo) - value) < AMBIENT
        if type(value) is not float:
            return False
        spans = zip(self._clocks[0], self._clocks[-1], strict=True)
        return abs(value - time.time()) < AMBIENT.total_seconds() or any(
            low <= value <= high for low, high in spans
        )

    # ------------------------------------------------------------------ classes

    def meet(self, cls: type) -> None:
        """Take note of a class of the program, and of all that its module shows."""
        found = [cls]
        if cls.__module__ not in self._modules and is_program(cls.__module__):
            self._modules.add(cls.__module__)
            shown = list(vars(sys.modules.get(cls.__module__, cls)).values())
            found += [value for value in shown if kind_of(value) is Kind.CLASS]
        for one in found:
            self._classes.setdefault((one.__module__, one.__qualname__), one)

    def class_of(self, name: Sequence[str], kind: Kind | None = None) -> Any:
        """Return a class that the program has shown.

        Args:
            name: its module and name.
            kind: of its instances; None: the class itself is meant, and of the program.

        Raises:
            NotPlainError: it has shown none of that name and kind.
        """
        cls: Any = self._classes.get((name[0], name[1]))
        if cls is not None and kind is None and is_program(cls.__module__):
            return cls
        if cls is not None and kind_of_instances(cls) is kind:
            return cls
        raise NotPlainError(f"a {'.'.join(name)}, which is not found in the program's modules")


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.perf_counter()


# ---------------------------------------------------------------------- comparing


def are_same(one: Any, other: Any) -> bool:
    """Whether two pieces of JSON are the same: 1, 1.0 and True are not, nor 0.0 and -0.0."""
    if one is MISSING or other is MISSING or one != other:
        return False
    return marshal.dumps(one, 2) == marshal.dumps(other, 2)


def print_of(content: Any, value: Any) -> list[Any]:
    """What a container is compared by with that of another process."""
    return [zlib.crc32(marshal.dumps(content, 2)), text_of(value)]


def print_of_array(array: Any, path: str) -> str:
    """What an array is compared by: a script's large ones are its data, of them a sample."""
    if array.dtype.hasobject:  # can't be saved
        return f"{array.dtype}{array.shape}"
    if array.nbytes > MOST_COMPARED and any(one in f"/{path}" for one in _HOLD_DATA):
        return f"{array.shape}{of_array(array.reshape(-1)[:: array.size // 4096])}"
    return of_array(array)


def items_of(container: Any) -> list[Any]:
    """What a container holds, in its order; of a dictionary all keys, then all values."""
    for base in (collections.OrderedDict, dict):
        if issubclass(type(container), base):
            return [*base.keys(container), *base.values(container)]
    return list(container)


# ---------------------------------------------------------------------- words


def name_of(key: str) -> str:
    """Return a place as people write it."""
    parts = key.replace("'", "").rsplit("<locals>.", 1)[-1].split("/")
    hidden = ("class:", "function:", "self:", "keywords:", "args:")
    shown = [p.split(":", 1)[-1] for p in parts if p not in hidden and not p.startswith("base:")]
    return ".".join(shown)


def text_of(value: Any) -> str:
    """Return plain data as people write it; of all else nothing, as that would run code."""
    kind = kind_of(value)
    if kind is Kind.ARRAY:
        return f"{value.dtype}{list(value.shape)}"
    if kind is Kind.LEAF:
        return reprlib.repr(value)
    plain = type(value) in MADE.values() and all(kind_of(v) is Kind.LEAF for v in items_of(value))
    return reprlib.repr(value) if plain else ""
