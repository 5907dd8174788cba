"""A hash of what a Python object holds, whether or not a checkpoint could hold it.

Equal content has an equal hash in every process: no addresses, no order of sets and keys. Code,
handles and threads count by their kind alone. A drill compares with it what a training consists
of beside its variables, and so finds state that nobody saves.
"""

import dis
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, cast

import keras
import numpy as np
from blake3 import blake3

from runner.training.state import anatomy
from runner.training.state.anatomy import cells, is_library, is_of_keras

_DEPTH = 8  #: objects within objects that are followed
_MOST = 100_000  #: of them in one walk
_LENGTH = 8  #: bytes of a hash: enough to distinguish two values
_PLAIN = bool | int | float | complex | str | bytes | bytearray


def digest(value: Any, known: Collection[int] = ()) -> str:
    """Return a value's hash.

    Args:
        value: anything.
        known: ids of objects that are compared by themselves, and not followed.

    >>> digest({"a": 1, "b": {2, 3}}) == digest({"b": {3, 2}, "a": 1}) != digest({"a": 1})
    True
    """
    return _Walk().hash(value, frozenset(known), _DEPTH)


def bytes_of(array: Any) -> Any:
    """Return an array's content as bytes, or their memory, without its dtype and shape."""
    if array.dtype.hasobject:  # texts
        return repr(array.tolist()).encode(errors="backslashreplace")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def of_array(array: Any) -> str:
    """Return the hash of an array's dtype, shape and bytes."""
    array = np.asarray(array)
    hasher = blake3(f"{array.dtype} {array.shape} ".encode())
    hasher.update(bytes_of(array))
    return str(hasher.hexdigest(_LENGTH))


@functools.cache
def set_by_keras(kind: Any) -> frozenset[str]:
    """Return the names of the attributes that Keras's own code sets on objects of a class."""
    return frozenset(
        instruction.argval
        for base in filter(is_of_keras, kind.__mro__)
        for member in vars(base).values()
        for function in anatomy.functions_in(member)
        for instruction in dis.get_instructions(function.__code__)
        if instruction.opname == "STORE_ATTR"
    )


def is_own(value: Any) -> bool:
    """Whether an object's class is the user's, and no library's that is known here."""
    return not is_library(type(value).__module__)


def _of(text: str) -> str:
    return str(blake3(text.encode(errors="backslashreplace")).hexdigest(_LENGTH))


class _Walk:
    """One walk through an object and what it holds."""

    def __init__(self) -> None:
        self._left = _MOST

    def hash(self, value: Any, known: frozenset[int], depth: int) -> str:
        kind = type(value).__qualname__
        if value is None or isinstance(value, _PLAIN):
            return _of(f"{kind} {value!r}")
        self._left -= 1
        if id(value) in known or depth == 0 or self._left < 0:
            return kind
        if isinstance(value, np.ndarray | np.generic):
            return of_array(value)
        parts = _parts(value)
        if parts is None:
            return _of(f"{kind} {_words(value)}")
        known |= {id(value)}  # what refers to itself ends there
        hashes = [self.hash(part, known, depth - 1) for part in parts]
        if isinstance(value, dict | set | frozenset):
            hashes.sort()
        return _of(" ".join([kind, *hashes]))


def _parts(value: Any) -> list[Any] | None:
    """Return what a value consists of; None where that is nothing."""
    for kinds, parts in _PARTS:
        if isinstance(value, kinds):
            return list(parts(value))
    array = _array(value)
    return _of_object(value) if array is None else [array]


def _of_object(value: Any) -> list[Any] | None:
    variables = getattr(value, "variables", None) if _is_of_keras(value) else None
    state = getattr(value, "state", None)  # of a SeedGenerator, a tf.random.Generator
    found = list(variables or ()) if state is None or variables else [state]
    if is_own(value) and not isinstance(value, type | types.ModuleType):
        found += [(name, inner) for name, inner in sorted(attributes(value).items())]
    return found or None


def attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, without those that are Keras's own."""
    theirs = set_by_keras(cast(Hashable, type(value)))
    held = anatomy.own_attributes(value).items()
    return {k: v for k, v in held if k not in theirs and not k.startswith("_self_")}  # TensorFlow's


def _is_of_keras(value: Any) -> bool:
    kinds = (keras.layers.Layer, keras.optimizers.Optimizer, keras.metrics.Metric)
    return isinstance(value, kinds)


def _array(value: Any) -> Any:
    """Return the array of a tensor or variable; None of all else, and where it can't be read."""
    if not (isinstance(value, keras.Variable) or hasattr(value, "__array__")):
        return None
    try:
        return np.asarray(keras.ops.convert_to_numpy(value))
    except Exception:  # noqa: BLE001 - symbolic, deleted, or foreign: it has no value now
        return None


def _words(value: Any) -> str:
    try:
        words = repr(value)
    except Exception:  # noqa: BLE001 - of somebody else's class
        return ""
    return "" if " at 0x" in words or isinstance(value, types.ModuleType | type) else words


#: what the values of a kind consist of
_PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (dict, lambda value: value.items()),
    ((list, tuple, deque, set, frozenset), iter),
    (np.random.Generator, lambda value: [value.bit_generator.state]),
    (np.random.RandomState, lambda value: [value.get_state()]),
    (random.Random, lambda value: [value.getstate()]),
    (functools.partial, lambda value: [value.func, value.args, value.keywords]),
    (types.MethodType, lambda value: [value.__self__]),
    (types.FunctionType, lambda value: cells(value).values()),
)
