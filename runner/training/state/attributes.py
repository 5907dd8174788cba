"""What the program sets on objects of Keras's kinds: a rate that a callback lowers, a counter.

Variables are all found, and so is the Python state of callbacks and of the program's own classes.
What is left are attributes of Keras's own layers, models and optimizers. Plain values that change
in training are saved and restored; anything else that changes there is reported.
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from runner.checkpoint.plain import decode_leaf, encode_leaf
from runner.training.digest import digest
from runner.training.state.anatomy import names_in_code, own_attributes
from runner.training.state.reach import Found, is_library

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
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
        warn: called once for each attribute that changes and is in no checkpoint.
    """

    def __init__(
        self, parts: Sequence[Found], covered: set[tuple[int, str]], warn: Callable[[str], None]
    ) -> None:
        self._parts = dict(parts)
        self._warn = warn
        #: by path, the names that were there in the beginning, and the plain values of those
        self._names: dict[str, frozenset[str]] = {}
        self._plain: dict[str, dict[str, Any]] = {}
        self._others: list[tuple[str, str]] = []  # paths and names of what is looked at, not saved
        for path, part in self._parts.items():
            mine = {n: v for n, v in vars(part).copy().items() if (id(part), n) not in covered}
            mine = {n: v for n, v in mine.items() if _is_open(part, n)}
            self._names[path] = frozenset(vars(part))
            self._plain[path] = {n: v for n, v in mine.items() if _is_saved(n, v)}
            self._others += [(path, name) for name in mine if name not in self._plain[path]]
        self._before: dict[str, Any] = {}
        self._reported: set[str] = set()

    def capture(self) -> dict[str, Any]:
        """Return the plain values that are others than in the beginning, as JSON."""
        return {f"{path}.{name}": encode_leaf(v, "") for path, name, v in self._changes()}

    def _changes(self) -> Iterator[tuple[str, str, Any]]:
        """Yield path, name and value of plain attributes that are new, or others than before."""
        for path, part in self._parts.items():
            values, known = vars(part), self._names[path]
            for name, before in self._plain[path].items():
                value = values.get(name, before)
                if _is_other(value, before):
                    yield path, name, value
            if len(values) != len(known):
                new = [n for n in values if n not in known and _is_open(part, n)]
                yield from ((path, n, values[n]) for n in new if _is_saved(n, values[n]))

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Set the values that had changed before the kill."""
        for key, value in saved.items():
            path, _, name = key.rpartition(".")
            part = self._parts.get(path)
            if part is not None and name.isidentifier() and not _is_keras_s(part, name):
                setattr(part, name, decode_leaf(value))

    def exchange(self, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
        """Set what `capture` returned at another time."""
        if now == then:
            return
        for path, name, _ in list(self._changes()):
            if name in self._plain[path]:
                setattr(self._parts[path], name, self._plain[path][name])
            else:
                delattr(self._parts[path], name)
        self.restore(then)

    def look(self) -> None:
        """Compare what is not saved with the last look, and report what is another."""
        now = {f"{p}.{name}": _print(vars(self._parts[p]).get(name)) for p, name in self._others}
        for name, value in now.items():
            if self._before.get(name, value) != value and name not in self._reported:
                self._reported.add(name)
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
        for name, value in own_attributes(part).items()
        if isinstance(value, _PLAIN)
        and name not in _KERAS_S_OWN
        and (not name.startswith("_") or name in _LOOKED_AT)
    }


def _is_open(part: Any, name: str) -> bool:
    """Whether the program may set an attribute: it is not one that Keras works with itself."""
    return name not in _KERAS_S_OWN and (name in _LOOKED_AT or not _is_keras_s(part, name))


def _is_saved(name: str, value: Any) -> bool:
    return isinstance(value, _PLAIN) and name not in _LOOKED_AT


def _is_keras_s(part: Any, name: str) -> bool:
    """Whether an attribute is private, and one that the code of a library works with."""
    cls: Any = type(part)
    return name.startswith("_") and (name.startswith("__") or name in _library_names(cls))


@functools.lru_cache(maxsize=1000)
def _library_names(cls: Any) -> frozenset[str]:
    return frozenset(names_in_code(cls, lambda base: is_library(base.__module__)))


def _is_other(value: Any, before: Any) -> bool:
    if value is before or not isinstance(value, _PLAIN):
        return False
    return type(value) is not type(before) or bool(value != before)


def _print(value: Any) -> Any:
    """Return what is equal for equal values; None where that is unknown."""
    if isinstance(value, list | tuple | set | dict):
        members = [*value, *(value.values() if isinstance(value, dict) else ())]
        known = len(value) <= _LONGEST and all(isinstance(one, _PLAIN) for one in members)
    elif isinstance(value, np.ndarray):
        known = value.nbytes <= _LARGEST and not value.dtype.hasobject
    else:
        known = isinstance(value, (*_PLAIN, *_GENERATORS))
    return digest(value) if known else None
