"""How the state of a Python object is taken: by its class alone, without running any code of it."""

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
from datetime import date, time, timedelta
from pathlib import PurePath
from typing import Any

import keras
import numpy as np


class Kind(enum.Enum):
    """How an object's state is taken."""

    LEAF = "leaf"  #: holds no others and never changes
    TUPLE = "tuple"
    NAMED = "named tuple"
    ENUM = "enum"
    FROZEN = "frozenset"
    TENSOR = "tensor"
    LIST = "list"
    DICT = "dict"
    SET = "set"
    DEQUE = "deque"
    BYTES = "bytearray"
    ARRAY = "array"
    GENERATOR = "generator"  #: NumPy's
    RANDOM_STATE = "random state"
    RANDOM = "random"  #: Python's
    FILE = "file"
    MEMORY = "file in memory"
    OBJECT = "object"
    FUNCTION = "function"
    METHOD = "method"
    PARTIAL = "partial"
    BUILTIN = "builtin"
    CLASS = "class"
    CARRIED = "carried"  #: saved with the model: variables and what holds them
    MACHINERY = "machinery"  #: without a state of the training: modules, locks, loggers
    OPAQUE = "opaque"  #: nobody knows


CONTAINERS = (Kind.LIST, Kind.DICT, Kind.SET, Kind.DEQUE, Kind.BYTES, Kind.ARRAY)
GENERATORS = (Kind.GENERATOR, Kind.RANDOM_STATE, Kind.RANDOM)
CODE = (Kind.FUNCTION, Kind.METHOD, Kind.PARTIAL, Kind.BUILTIN, Kind.CLASS)
WITH_FIELDS = (Kind.OBJECT, *CODE)
#: what a function may change although it does not assign to the name
STATEFUL = {*CONTAINERS, *GENERATORS, Kind.FILE, Kind.MEMORY, *WITH_FIELDS}

_LEAVES = (type(None), bool, int, float, complex, str, bytes, range, slice, timedelta)
_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.FileIO)
#: of these classes alone, not of others that build on them
_EXACT: dict[type, Kind] = {
    **dict.fromkeys(_LEAVES, Kind.LEAF),
    **dict.fromkeys(_FILES, Kind.FILE),
    **dict.fromkeys((io.StringIO, io.BytesIO), Kind.MEMORY),
    tuple: Kind.TUPLE,
    frozenset: Kind.FROZEN,
    np.ndarray: Kind.ARRAY,
}
_CARRIED = (
    keras.layers.Layer,
    keras.optimizers.Optimizer,
    keras.metrics.Metric,
    keras.Variable,
    keras.random.SeedGenerator,
)
DATA = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.ChainMap,
    collections.UserDict,
    collections.UserList,
    collections.UserString,
)
#: of Python's own modules, those whose objects hold what only they know
_HOLDING = {"queue", "multiprocessing", "sqlite3", "shelve", "dbm", "asyncio", "weakref"}
_LIBRARIES = {"keras", "tensorflow", "jax", "jaxlib", "numpy", "runner"}
_MACHINES = (
    *(types.ModuleType, types.BuiltinFunctionType, types.GetSetDescriptorType, np.ufunc, property),
    *(types.MemberDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType),
    *(weakref.ref, weakref.ProxyType, type(threading.Lock()), type(threading.RLock())),
    *(random.SystemRandom, types.CodeType, types.MappingProxyType, decimal.Decimal),
    *(re.Pattern, operator.itemgetter, operator.attrgetter, operator.methodcaller),
)
_BASES: list[tuple[Any, Kind]] = [
    ((np.generic, PurePath), Kind.LEAF),
    (types.FunctionType, Kind.FUNCTION),
    (types.MethodType, Kind.METHOD),
    (functools.partial, Kind.PARTIAL),
    (types.BuiltinFunctionType, Kind.BUILTIN),
    (type, Kind.CLASS),
    (enum.Enum, Kind.ENUM),
    (list, Kind.LIST),
    (dict, Kind.DICT),
    (set, Kind.SET),
    (collections.deque, Kind.DEQUE),
    (bytearray, Kind.BYTES),
    (random.SystemRandom, Kind.MACHINERY),
    (random.Random, Kind.RANDOM),
    (np.random.Generator, Kind.GENERATOR),
    (np.random.RandomState, Kind.RANDOM_STATE),
    (_CARRIED, Kind.CARRIED),
    ((keras.callbacks.ProgbarLogger, keras.callbacks.CallbackList), Kind.MACHINERY),
    (keras.callbacks.Callback, Kind.OBJECT),
    (_MACHINES, Kind.MACHINERY),
]


def kind_of(value: Any) -> Kind:
    """Return how the state of a value is taken."""
    cls: Any = type(value)
    return kind_of_instances(cls)


@functools.lru_cache(maxsize=10_000)
def kind_of_instances(cls: type) -> Kind:
    """Return how the state of a class's instances is taken."""
    if cls in _EXACT:
        return _EXACT[cls]
    if issubclass(cls, date | time) and cls.__module__ == "datetime":
        return Kind.LEAF
    if _root(cls.__module__) == "runner" and not _is_callback_of_a_job(cls):
        return Kind.MACHINERY
    for bases, kind in _BASES:
        if issubclass(cls, bases):
            return kind
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return Kind.NAMED
    return _kind_of_other(cls)


def has_state(value: Any) -> bool:
    """Whether a function may change something although it does not assign to its name."""
    kind = kind_of(value)
    return kind in STATEFUL or (kind is Kind.OPAQUE and is_library(type(value).__module__))


def _is_callback_of_a_job(cls: type) -> bool:
    ours = any(base.__name__ == "BackupAndRestore" for base in cls.__mro__)
    return issubclass(cls, keras.callbacks.Callback) and not ours


def _kind_of_other(cls: type) -> Kind:
    root = _root(cls.__module__)
    if root in ("tensorflow", "jax", "jaxlib"):
        if cls.__name__ in ("EagerTensor", "ArrayImpl"):
            return Kind.TENSOR
        if any(base.__name__ in ("Variable", "Generator") for base in cls.__mro__):
            return Kind.CARRIED
        return Kind.OPAQUE if "Iterator" in cls.__name__ else Kind.MACHINERY
    if cls in DATA or (is_dataclass(cls) and root not in _LIBRARIES):
        return Kind.OBJECT
    python = _is_python(cls)
    if is_library(cls.__module__):
        return Kind.OPAQUE if root in _HOLDING or not python else Kind.MACHINERY
    return Kind.OBJECT if python or issubclass(cls, DATA) else Kind.OPAQUE


def is_dataclass(cls: type) -> bool:
    """Whether a class says itself which data it holds."""
    return hasattr(cls, "__dataclass_fields__")


def _root(module: Any) -> str:
    return str(module).split(".", 1)[0]


def is_library(module: Any) -> bool:
    """Whether a module is Python's, or of those whose objects are machines to us."""
    root = _root(module)
    return root in _LIBRARIES or root in sys.stdlib_module_names or root == "builtins"


@functools.cache
def is_program(module: Any) -> bool:
    """Whether a module is the user's: neither a library nor installed like one."""
    found = sys.modules.get(_root(module))
    installed = "site-packages" in str(getattr(found, "__file__", None) or "")
    return not is_library(module) and not installed


def _is_python(cls: type) -> bool:
    """Whether an instance is a dictionary and slots, with nothing that C hides beside them."""
    size = object.__basicsize__ + 8 * (cls.__dictoffset__ > 0) + 8 * (cls.__weakrefoffset__ > 0)
    return cls.__itemsize__ == 0 and cls.__basicsize__ <= size + 8 * len(slots_of(cls))


@functools.lru_cache(maxsize=10_000)
def slots_of(cls: type) -> dict[str, Any]:
    """Return the slots of a class that hold values, by name."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__slots__" in vars(base):
            members = types.MemberDescriptorType
            found |= {k: v for k, v in vars(base).items() if isinstance(v, members)}
    return found


def own_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes in an object's dictionary, if it has one."""
    if type(owner).__dictoffset__ == 0:
        return {}
    return dict(object.__getattribute__(owner, "__dict__"))


def is_of_keras(value: Any) -> bool:
    """Whether an object's class is Keras's own."""
    return str(type(value).__module__).startswith("keras.")


def is_machine(value: Any) -> bool:
    """Whether an object of an installed library runs something: not to be reached into."""
    cls = type(value)
    if is_program(cls.__module__) or issubclass(cls, (keras.callbacks.Callback, *DATA)):
        return False
    kinds = set(map(kind_of, own_attributes(value).values()))
    return bool(kinds & {Kind.MACHINERY, Kind.OPAQUE, Kind.FILE})
