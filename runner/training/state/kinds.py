"""How the state of a Python object is captured: by its class, without running any code of it."""

import argparse
import collections
import decimal
import enum
import functools
import io
import operator
import random
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import PurePath
from typing import Any, NamedTuple

import keras
import numpy as np

from runner.checkpoint.plain import NotPlainError
from runner.training.state import anatomy, files
from runner.training.state.anatomy import is_library, root_of

_CARRIED = (
    *(keras.layers.Layer, keras.optimizers.Optimizer, keras.metrics.Metric),
    *(keras.Variable, keras.random.SeedGenerator),
)
_MACHINES = (
    *(types.ModuleType, types.GetSetDescriptorType, np.ufunc, property, random.SystemRandom),
    *(types.MemberDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType),
    *(weakref.ref, weakref.ProxyType, type(threading.Lock()), type(threading.RLock())),
    *(types.CodeType, types.MappingProxyType, decimal.Decimal, re.Pattern),
    *(operator.itemgetter, operator.attrgetter, operator.methodcaller),
    *(keras.callbacks.ProgbarLogger, keras.callbacks.CallbackList),
)


class Kind(enum.Enum):
    """How an object's state is captured: the word for it in checkpoints, and of which classes.

    A class belongs to the first kind that has one of its bases.
    """

    LEAF = "leaf", np.generic, PurePath  #: holds no others and never changes
    FUNCTION = "function", types.FunctionType
    METHOD = "method", types.MethodType
    PARTIAL = "partial", functools.partial
    BUILTIN = "builtin", types.BuiltinFunctionType
    CLASS = "class", type
    ENUM = "enum", enum.Enum
    LIST = "list", list
    DICT = "dict", dict
    SET = "set", set
    DEQUE = "deque", collections.deque
    BYTES = "bytearray", bytearray
    MACHINERY = "machinery", *_MACHINES  #: without a state of the training
    RANDOM = "random", random.Random
    GENERATOR = "generator", np.random.Generator
    RANDOM_STATE = "random state", np.random.RandomState
    CARRIED = "carried", *_CARRIED  #: saved with the model: variables and what holds them
    OBJECT = "object", keras.callbacks.Callback
    #: of some classes alone, not of others that build on them
    TUPLE = ("tuple",)
    FROZEN = ("frozenset",)
    ARRAY = ("array",)
    FILE = ("file",)
    MEMORY = ("file in memory",)
    #: recognised by other marks
    NAMED = ("named tuple",)
    TENSOR = ("tensor",)
    OPAQUE = ("opaque",)  #: nobody knows

    bases: tuple[type, ...]

    def __new__(cls, word: str, *bases: type) -> "Kind":
        """Make a member, whose value is the word."""
        made = object.__new__(cls)
        made._value_, made.bases = word, bases
        return made


_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice),
    *(date, datetime, time, timedelta),
)
_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.FileIO)
_EXACT: dict[type, Kind] = {
    **dict.fromkeys(_LEAVES, Kind.LEAF),
    **dict.fromkeys(_FILES, Kind.FILE),
    **dict.fromkeys((io.StringIO, io.BytesIO), Kind.MEMORY),
    tuple: Kind.TUPLE,
    frozenset: Kind.FROZEN,
    np.ndarray: Kind.ARRAY,
}
CONTAINERS = (Kind.LIST, Kind.DICT, Kind.SET, Kind.DEQUE, Kind.BYTES, Kind.ARRAY)
GENERATORS = (Kind.GENERATOR, Kind.RANDOM_STATE, Kind.RANDOM)
CODE = (Kind.FUNCTION, Kind.METHOD, Kind.PARTIAL, Kind.BUILTIN, Kind.CLASS)
WITH_FIELDS = (Kind.OBJECT, *CODE)
IMMUTABLE = {Kind.TUPLE, Kind.NAMED, Kind.ENUM, Kind.FROZEN, Kind.TENSOR}
#: what a function may change although it does not assign to the name
_STATEFUL = {*CONTAINERS, *GENERATORS, Kind.FILE, Kind.MEMORY, *WITH_FIELDS}
DATA = (
    *(types.SimpleNamespace, argparse.Namespace, collections.ChainMap),
    *(collections.UserDict, collections.UserList, collections.UserString),
)
#: of Python's own modules, those whose objects hold what only they know
_HOLDING = {"queue", "multiprocessing", "sqlite3", "shelve", "dbm", "asyncio", "weakref"}
#: of libraries that are not reached into: what is drawn, a resumed training draws anew
_FOREIGN = {"matplotlib": Kind.MACHINERY, "mpl_toolkits": Kind.MACHINERY, "pandas": Kind.OPAQUE}


def kind_of(value: Any) -> Kind:
    """Return how the state of a value is captured."""
    cls: Any = type(value)
    return kind_of_instances(cls)


def precise_kind_of(value: Any) -> Kind:
    """Return the kind of a value, where it depends on more than its class."""
    kind = kind_of(value)
    if value is sys.stdout or value is sys.stderr:
        return Kind.MACHINERY
    if kind is Kind.FILE and files.is_standard(value):
        return Kind.MACHINERY
    return Kind.OPAQUE if kind is Kind.OBJECT and _is_machine(value) else kind


@functools.lru_cache(maxsize=10_000)
def kind_of_instances(cls: type) -> Kind:
    """Return how the state of a class's instances is captured."""
    if cls in _EXACT:
        return _EXACT[cls]
    if root_of(cls.__module__) == "runner" and not _is_callback_of_a_job(cls):
        return Kind.MACHINERY
    for kind in Kind:
        if issubclass(cls, kind.bases):
            return kind
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return Kind.NAMED
    if root_of(cls.__module__) in ("tensorflow", "jax", "jaxlib"):
        return _kind_of_backend(cls)
    return _FOREIGN.get(root_of(cls.__module__)) or _kind_of_other(cls)


def has_state(value: Any) -> bool:
    """Whether a function may change something although it does not assign to its name."""
    kind = kind_of(value)
    return kind in _STATEFUL or (kind is Kind.OPAQUE and is_library(type(value).__module__))


def is_dataclass(cls: type) -> bool:
    """Whether a class declares which data it holds."""
    return hasattr(cls, "__dataclass_fields__")


def _is_callback_of_a_job(cls: type) -> bool:
    ours = any(base.__name__ == "BackupAndRestore" for base in cls.__mro__)
    return issubclass(cls, keras.callbacks.Callback) and not ours


def _kind_of_backend(cls: type) -> Kind:
    if cls.__name__ in ("EagerTensor", "ArrayImpl"):
        return Kind.TENSOR
    if any(base.__name__ in ("Variable", "Generator") for base in cls.__mro__):
        return Kind.CARRIED
    return Kind.OPAQUE if "Iterator" in cls.__name__ else Kind.MACHINERY


def _kind_of_other(cls: type) -> Kind:
    """The kind of instances that hold attributes, or what only C knows."""
    library, python = is_library(cls.__module__), _is_python(cls)
    stdlib = root_of(cls.__module__) in sys.stdlib_module_names
    if cls in DATA or (is_dataclass(cls) and (stdlib or not library)):
        return Kind.OBJECT
    if library:
        known = python and root_of(cls.__module__) not in _HOLDING
        return Kind.MACHINERY if known else Kind.OPAQUE
    return Kind.OBJECT if python or issubclass(cls, DATA) else Kind.OPAQUE


def _is_python(cls: type) -> bool:
    """Whether an instance is a dictionary and slots, with nothing that C hides beside them."""
    size = object.__basicsize__ + 8 * (cls.__dictoffset__ > 0) + 8 * (cls.__weakrefoffset__ > 0)
    return cls.__itemsize__ == 0 and cls.__basicsize__ <= size + 8 * len(anatomy.slots_of(cls))


def _is_machine(value: Any) -> bool:
    """Whether an object of an installed library runs something: not to be reached into."""
    cls = type(value)
    if anatomy.is_program(cls.__module__) or issubclass(cls, (keras.callbacks.Callback, *DATA)):
        return False
    kinds = set(map(kind_of, anatomy.own_attributes(value).values()))
    return bool(kinds & {Kind.MACHINERY, Kind.OPAQUE, Kind.FILE})


# ---------------------------------------------------------------------- calls of their own


class Calls(NamedTuple):
    """What reads and sets the state of generators and open files."""

    look: Callable[[Any], Any]  #: returns the state as plain data
    put_back: Callable[[Any, Any], None]  #: sets it; raises NotPlainError where it can't be had
    make: Callable[[Any], Any]  #: returns an object that can have a state; None if nobody can


_BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def _spawned(bits: Any) -> int:
    return getattr(bits.seed_seq, "n_children_spawned", 0)


def _put_bits(here: Any, state: Any) -> None:
    bits, (values, spawned) = here.bit_generator, state
    if bits.state["bit_generator"] != values["bit_generator"]:
        raise NotPlainError(f"it was a {values['bit_generator']}")
    bits.state = values
    if spawned > _spawned(bits):
        bits.seed_seq.spawn(spawned - _spawned(bits))


def _make_bits(state: Any) -> Any:
    found = [bits for bits in _BITS if bits.__name__ == state[0]["bit_generator"]]
    return np.random.Generator(found[0](0)) if found else None


def _put_in_memory(here: Any, state: Any) -> None:
    content, position = state
    here.seek(0)
    here.truncate()
    here.write(content)
    here.seek(position)


CALLS: dict[Kind, Calls] = {
    Kind.FILE: Calls(files.look, lambda file, state: files.put_back(file, *state), lambda _: None),
    Kind.MEMORY: Calls(
        lambda file: (file.getvalue(), file.tell()),
        _put_in_memory,
        lambda state: io.StringIO(newline="") if isinstance(state[0], str) else io.BytesIO(),
    ),
    Kind.RANDOM: Calls(random.Random.getstate, random.Random.setstate, lambda _: random.Random()),
    Kind.RANDOM_STATE: Calls(
        lambda g: g.get_state(legacy=False),
        lambda g, state: g.set_state(state),
        lambda _: np.random.RandomState(0),
    ),
    Kind.GENERATOR: Calls(
        lambda g: (g.bit_generator.state, _spawned(g.bit_generator)), _put_bits, _make_bits
    ),
}
