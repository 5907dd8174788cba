"""What the program sets on objects of Keras's kinds: a rate that a callback lowers, a counter.

Variables are all found, and so is the Python state of callbacks and of the program's own classes.
What is left are attributes of Keras's own layers, models and optimizers. Plain values that change
in training are saved and restored; of all others it is named what changes and is in no checkpoint.
"""

import functools
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from runner.checkpoint.plain import NotPlainError, decode, encode
from runner.training.reach import Found, attributes, codes, is_library

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
#: what Keras itself changes as it trains
_KERAS_S_OWN = frozenset(
    {"built", "stop_training", "stop_evaluating", "params", "history"}
    | {"train_function", "test_function", "predict_function"}
)
_LOOKED_AT = frozenset({"_trainable"})  #: what it changes for the program
_LONGEST = 100  #: entries of a container that is looked into
_LARGEST = 16 * 2**20  #: bytes of an array that is looked at


class Attributes:
    """The attributes that no other part of a checkpoint holds.

    Args:
        parts: paths and objects, as the program made them.
        covered: ids of objects and names of their attributes that are held elsewhere.
        warn: told once of each attribute that changes and is in no checkpoint.
    """

    def __init__(
        self, parts: Sequence[Found], covered: set[tuple[int, str]], warn: Callable[[str], None]
    ) -> None:
        self._parts = dict(parts)
        self._covered = covered
        self._warn = warn
        self._plain: list[tuple[str, dict[str, Any], str, Any]] = []
        self._others: list[tuple[str, dict[str, Any], str]] = []  # what is looked at, not saved
        for path, part, name, value in self._open():
            values = getattr(part, "__dict__", {})
            if name not in values:
                continue
            if isinstance(value, _PLAIN) and name not in _LOOKED_AT:
                self._plain.append((f"{path}.{name}", values, name, value))
            else:
                self._others.append((f"{path}.{name}", values, name))
        owners: dict[int, list[tuple[str, dict[str, Any], str, Any]]] = {}
        for entry in self._plain:
            owners.setdefault(id(entry[1]), []).append(entry)
        self._glances = [
            (
                itemgetter(*(name for _, _, name, _ in entries), entries[0][2]),  # two at least
                entries[0][1],
                (*(first for _, _, _, first in entries), entries[0][3]),
                entries,
            )
            for entries in owners.values()
        ]
        #: objects with attributes in a dictionary, and the names that were in it
        self._known = {
            path: (vars(part), frozenset(vars(part)))
            for path, part in self._parts.items()
            if hasattr(part, "__dict__")
        }
        self._before: dict[str, Any] = {}
        self._said: set[str] = set()

    def _open(self) -> Iterator[tuple[str, Any, str, Any]]:
        """Yield path, object, name and value of each attribute that is nobody else's."""
        for path, part in self._parts.items():
            for name, value in attributes(part).items():
                if name in _KERAS_S_OWN or (id(part), name) in self._covered:
                    continue
                if name in _LOOKED_AT or not _is_keras_s(part, name):
                    yield path, part, name, value

    def capture(self) -> dict[str, Any]:
        """Return the plain values that are others than in the beginning, as JSON."""
        found = {}
        for key, values, name, first in self._changed():
            value = values.get(name, first)
            if value is not first and isinstance(value, _PLAIN):
                found[key] = encode(value, _refuse)
        for path, name, value in self._new():
            found[f"{path}.{name}"] = encode(value, _refuse)
        return found

    def _changed(self) -> Iterator[tuple[str, dict[str, Any], str, Any]]:
        """Yield the plain values of objects of which one is another, each object in one glance."""
        for get, values, firsts, entries in self._glances:
            try:
                same = bool(get(values) == firsts)
            except (KeyError, ValueError, TypeError):  # one is gone, or an array now
                same = False
            if not same:
                yield from entries

    def _new(self) -> list[tuple[str, str, Any]]:
        """Return path, name and value of plain attributes that were not there in the beginning."""
        return [
            (path, name, value)
            for path, (values, known) in self._known.items()
            if len(values) != len(known)
            for name, value in values.items()
            if name not in known
            and name not in _KERAS_S_OWN
            and isinstance(value, _PLAIN)
            and not _is_keras_s(self._parts[path], name)
        ]

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Set the values that had changed before the kill."""
        for key, value in saved.items():
            path, _, name = key.rpartition(".")
            part = self._parts.get(path)
            if path in self._known and name.isidentifier() and not _is_keras_s(part, name):
                setattr(part, name, decode(value, _none))

    def reset(self) -> None:
        """Set the values of the beginning."""
        for key, values, name, first in self._plain:
            value = values.get(name, first)
            if value is not first and isinstance(value, _PLAIN):
                setattr(self._parts[key.removesuffix(f".{name}")], name, first)
        for path, name, _ in self._new():
            delattr(self._parts[path], name)

    def exchange(self, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
        """Set what `capture` returned at another time."""
        if now != then:
            self.reset()
            self.restore(then)

    def look(self) -> None:
        """Compare what is not saved with the last look, and name what is another."""
        now = {key: _print(values.get(name)) for key, values, name in self._others}
        for name, value in now.items():
            if self._before.get(name, value) != value and name not in self._said:
                self._said.add(name)
                self._warn(
                    f"{name} has changed in mid-training and is in no checkpoint: after a resume "
                    "it is what the program sets it to. If a step or a callback reads it, let a "
                    "callback keep it in an attribute of its own, or make it with add_weight."
                )
        self._before = now


def plain(part: Any) -> dict[str, Any]:
    """Return the plain values that a program can set on a part, by name."""
    return {
        name: value
        for name, value in attributes(part).items()
        if isinstance(value, _PLAIN)
        and name not in _KERAS_S_OWN
        and (not name.startswith("_") or name in _LOOKED_AT)
    }


def _is_keras_s(part: Any, name: str) -> bool:
    """Whether an attribute is private, and one that the code of a library works with."""
    cls: Any = type(part)
    return name.startswith("_") and (name.startswith("__") or name in _private_names(cls))


@functools.lru_cache(maxsize=1000)
def _private_names(cls: Any) -> frozenset[str]:
    values = [v for k in cls.__mro__ if is_library(k.__module__) for v in vars(k).values()]
    wrappers = ("fget", "fset", "__wrapped__", "__func__")
    inner = [getattr(value, name, None) for value in values for name in wrappers]
    return frozenset(
        name
        for function in [*values, *inner]
        if isinstance(function, types.FunctionType)
        for code in codes(function.__code__)
        for name in code.co_names
        if name.startswith("_")
    )


def _refuse(path: str, array: Any) -> str:
    raise NotPlainError(f"{path}: an array of shape {array.shape}")


def _none(name: str) -> Any:
    raise KeyError(name)


def _print(value: Any) -> Any:
    """Return what is equal for equal values; None where that can't be said."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if isinstance(value, np.ndarray):
        small = value.nbytes <= _LARGEST and not value.dtype.hasobject
        return (value.shape, str(value.dtype), hash(value.tobytes())) if small else None
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState | random.Random):
        state = value.get_state() if isinstance(value, np.random.RandomState) else value.getstate()
        return hash(repr(state))
    if isinstance(value, list | tuple | set | dict) and len(value) <= _LONGEST:
        members = [*value, *value.values()] if isinstance(value, dict) else list(value)
        return repr(value) if all(isinstance(member, _PLAIN) for member in members) else None
    return None
