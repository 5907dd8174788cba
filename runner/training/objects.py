"""What Python objects are made of, seen and set without running any code of theirs.

An object's fields are its attributes; a function's are its closure, the globals that can change
and its own attributes; a class's are its attributes and methods. Fields are read and written
where they are kept (`__dict__`, slots, cells): no property, `__getattr__` or `__setattr__` runs.
"""

import argparse
import collections
import decimal
import dis
import enum
import functools
import io
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from pathlib import PurePath
from typing import Any

import keras
import numpy as np

from runner.checkpoint.plain import NotPlainError


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
    BITS = "bit generator"
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
GENERATORS = (Kind.GENERATOR, Kind.BITS, Kind.RANDOM_STATE, Kind.RANDOM)
CODE = (Kind.FUNCTION, Kind.METHOD, Kind.PARTIAL, Kind.BUILTIN, Kind.CLASS)
WITH_FIELDS = (Kind.OBJECT, *CODE)
#: what a function may change although it does not assign to the name
_STATEFUL = {*CONTAINERS, *GENERATORS, Kind.FILE, Kind.MEMORY, *WITH_FIELDS}

_LEAVES = (type(None), bool, int, float, complex, str, bytes, range, slice, np.generic, PurePath)
_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.FileIO)
_CARRIED = (
    keras.layers.Layer,
    keras.optimizers.Optimizer,
    keras.metrics.Metric,
    keras.Variable,
    keras.random.SeedGenerator,
)
_DATA = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.ChainMap,
    collections.UserDict,
    collections.UserList,
    collections.UserString,
)
#: of Python's own modules, those whose objects hold what only they know
_HOLDING = {"queue", "multiprocessing", "sqlite3", "shelve", "dbm", "asyncio"}
_LIBRARIES = {"keras", "tensorflow", "jax", "jaxlib", "numpy", "runner"}
_MACHINES = (
    *(types.ModuleType, types.BuiltinFunctionType, types.GetSetDescriptorType, np.ufunc, property),
    *(types.MemberDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType),
    *(weakref.ref, weakref.ProxyType, type(threading.Lock()), type(threading.RLock())),
    *(threading.local, random.SystemRandom, types.CodeType, types.MappingProxyType),
    decimal.Decimal,
)
_CODE_KINDS: list[tuple[type, Kind]] = [
    (types.FunctionType, Kind.FUNCTION),
    (types.MethodType, Kind.METHOD),
    (functools.partial, Kind.PARTIAL),
    (types.BuiltinFunctionType, Kind.BUILTIN),
    (type, Kind.CLASS),
]
_BASES: list[tuple[Any, Kind]] = [
    (enum.Enum, Kind.ENUM),
    (list, Kind.LIST),
    (dict, Kind.DICT),
    (set, Kind.SET),
    (collections.deque, Kind.DEQUE),
    (bytearray, Kind.BYTES),
    (random.SystemRandom, Kind.MACHINERY),
    (random.Random, Kind.RANDOM),
    (np.random.Generator, Kind.GENERATOR),
    (np.random.BitGenerator, Kind.BITS),
    (np.random.RandomState, Kind.RANDOM_STATE),
    (_CARRIED, Kind.CARRIED),
    ((keras.callbacks.ProgbarLogger, keras.callbacks.CallbackList), Kind.MACHINERY),
    (keras.callbacks.Callback, Kind.OBJECT),
    (_MACHINES, Kind.MACHINERY),
]


def kind_of(value: Any) -> Kind:
    """Return how the state of a value is taken."""
    cls: Any = type(value)
    return _kind(cls)


@functools.lru_cache(maxsize=10_000)
def _kind(cls: type) -> Kind:
    if issubclass(cls, np.generic | PurePath) or cls in (*_LEAVES, timedelta):
        return Kind.LEAF
    if issubclass(cls, date | time) and cls.__module__ == "datetime":
        return Kind.LEAF
    if cls is tuple or cls is frozenset:
        return Kind(cls.__name__)
    if cls in _FILES:
        return Kind.FILE
    if cls in (io.StringIO, io.BytesIO):
        return Kind.MEMORY
    if cls is np.ndarray:
        return Kind.ARRAY
    if _root(cls.__module__) == "runner":
        return Kind.MACHINERY
    for bases, kind in (*_CODE_KINDS, *_BASES):
        if issubclass(cls, bases):
            return kind
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return Kind.NAMED
    return _kind_of_other(cls)


def _kind_of_other(cls: type) -> Kind:
    root = _root(cls.__module__)
    if root in ("tensorflow", "jax", "jaxlib"):
        if cls.__name__ in ("EagerTensor", "ArrayImpl"):
            return Kind.TENSOR
        if any(base.__name__ in ("Variable", "Generator") for base in cls.__mro__):
            return Kind.CARRIED
        return Kind.OPAQUE if "Iterator" in cls.__name__ else Kind.MACHINERY
    if cls in _DATA or (_is_dataclass(cls) and root not in _LIBRARIES):
        return Kind.OBJECT
    python = _is_python(cls)
    if is_library(cls.__module__):
        return Kind.OPAQUE if root in _HOLDING or not python else Kind.MACHINERY
    return Kind.OBJECT if python or issubclass(cls, _DATA) else Kind.OPAQUE


def _is_dataclass(cls: type) -> bool:
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
    return cls.__itemsize__ == 0 and cls.__basicsize__ <= size + 8 * len(_slots(cls))


@functools.lru_cache(maxsize=10_000)
def _slots(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__slots__" in vars(base):
            members = types.MemberDescriptorType
            found |= {k: v for k, v in vars(base).items() if isinstance(v, members)}
    return found


def is_machine(value: Any) -> bool:
    """Whether an object of an installed library runs something: not to be reached into."""
    cls = type(value)
    if is_program(cls.__module__) or issubclass(cls, (keras.callbacks.Callback, *_DATA)):
        return False
    kinds = set(map(kind_of, own_attributes(value).values()))
    return bool(kinds & {Kind.MACHINERY, Kind.OPAQUE, Kind.FILE})


# ---------------------------------------------------------------------- fields


def fields_of(owner: Any) -> dict[str, Any]:
    """Return what an object consists of, by name; names with a colon are not attributes."""
    return _FIELDS.get(kind_of(owner), _attributes)(owner)


def _attributes(owner: Any) -> dict[str, Any]:
    cls: Any = type(owner)
    found: dict[str, Any] = {}
    if is_program(cls.__module__):
        found["class:"] = cls
    found |= own_attributes(owner)
    for name, member in _slots(cls).items():
        try:
            found[name] = member.__get__(owner)
        except AttributeError:  # not set
            continue
    if issubclass(cls, keras.callbacks.Callback):
        return _of_callback(owner, found)
    chosen = _chosen(cls)
    return found if chosen is None else {k: v for k, v in found.items() if k in chosen}


def own_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes in an object's dictionary, if it has one."""
    if type(owner).__dictoffset__ == 0:
        return {}
    return dict(object.__getattribute__(owner, "__dict__"))


def _of_callback(owner: Any, found: dict[str, Any]) -> dict[str, Any]:
    skipped = {"_model", "params"}
    if issubclass(type(owner), keras.callbacks.CSVLogger):
        skipped |= {"csv_file", "writer"}
    found = {k: v for k, v in found.items() if k not in skipped}
    if _is_monitor(owner) and "monitor_op" in found:
        # Keras sets the operation at the first epoch's end and flips the sign of what was given
        operation = getattr(found["monitor_op"], "__name__", None)
        found["monitor_op"] = operation
        if operation == "less" and "min_delta" in found:
            found["min_delta"] = -found["min_delta"]
    return found


def _is_monitor(owner: Any) -> bool:
    cls = type(owner)
    return issubclass(cls, keras.callbacks.Callback) and hasattr(cls, "_set_monitor_op")


@functools.lru_cache(maxsize=1000)
def _chosen(cls: type) -> frozenset[str] | None:
    """The attributes that are the program's, in a class that adds to a library's; None: all."""
    bases = [base for base in cls.__mro__ if base is not object and base not in _DATA]
    foreign = [b for b in bases if is_library(b.__module__) and b.__module__ not in _HOLLOW]
    if not foreign or (cls in foreign and _is_dataclass(cls)):
        return None
    codes = [
        function.__code__
        for base in bases
        if base not in foreign
        for function in map(_unwrapped, vars(base).values())
        if type(function) is types.FunctionType
    ]
    names = {name for code in codes for inner in _codes(code) for name in inner.co_names}
    return frozenset({"class:", *names} - {"stop_training"})


_HOLLOW = ("abc", "typing", "collections.abc", "contextlib")  #: modules of bases without state


def _unwrapped(value: Any) -> Any:
    cls = type(value)
    if issubclass(cls, staticmethod | classmethod):
        return value.__func__
    if issubclass(cls, property):
        return value.fget
    return value.func if issubclass(cls, functools.cached_property) else value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


@functools.lru_cache(maxsize=10_000)
def _globals_named(code: types.CodeType) -> dict[str, bool]:
    """The global names in a function's code, and whether it assigns to them."""
    names: dict[str, bool] = {}
    for inner in _codes(code):
        for instruction in dis.get_instructions(inner):
            if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL"):
                stored = instruction.opname == "STORE_GLOBAL"
                names[instruction.argval] = names.get(instruction.argval, False) or stored
    return names


def _of_function(owner: Any) -> dict[str, Any]:
    values = owner.__globals__
    if not is_program(values.get("__name__")):
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=False):
        try:
            found[f"closure:{name}"] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    found.pop("closure:__class__", None)
    for name, stored in _globals_named(owner.__code__).items():
        if name in values and (stored or kind_of(values[name]) in _STATEFUL):
            found[f"global:{name}"] = values[name]
    defaults = [*(owner.__defaults__ or ()), *(owner.__kwdefaults__ or {}).values()]
    found |= {f"default:{i}": v for i, v in enumerate(defaults) if kind_of(v) in _STATEFUL}
    found |= vars(owner)
    return found


def _of_class(owner: Any) -> dict[str, Any]:
    if not is_program(owner.__module__) or issubclass(owner, enum.Enum | tuple):
        return {}
    found: dict[str, Any] = {}
    for name, value in list(vars(owner).items()):
        value = _unwrapped(value)
        kind = kind_of(value)
        if kind is Kind.FUNCTION:
            found[f"method:{name}"] = value
        elif not (name.startswith("__") and name.endswith("__")) and kind in _CLASS_STATE:
            found[name] = value
    bases = [base for base in owner.__bases__ if is_program(base.__module__)]
    return found | {f"base:{base.__qualname__}": base for base in bases}


_CLASS_STATE = {Kind.LEAF, *CONTAINERS, *GENERATORS, Kind.OBJECT, Kind.TUPLE, Kind.FROZEN}


_FIELDS: dict[Kind, Callable[[Any], dict[str, Any]]] = {
    Kind.FUNCTION: _of_function,
    Kind.CLASS: _of_class,
    Kind.METHOD: lambda m: {"self:": m.__self__, "function:": m.__func__},
    Kind.PARTIAL: lambda p: {"function:": p.func, "args:": p.args, "keywords:": p.keywords},
    Kind.BUILTIN: lambda b: {"self:": b.__self__},
}


def is_settable(name: str) -> bool:
    """Whether a field can be given another value; else only what stands in it changes."""
    return ":" not in name or name.startswith(("closure:", "global:"))


def set_field(owner: Any, name: str, value: Any) -> None:
    """Give a field another value.

    Raises:
        NotPlainError: it can't have one.
    """
    cls: Any = type(owner)
    slot = _slots(cls).get(name)
    if name.startswith("closure:"):
        cells = dict(zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=False))
        if name.removeprefix("closure:") not in cells:
            raise NotPlainError("the function is another now")
        cells[name.removeprefix("closure:")].cell_contents = value
    elif name.startswith("global:"):
        owner.__globals__[name.removeprefix("global:")] = value
    elif not is_settable(name):
        raise NotPlainError(f"{name} can't be set")
    elif kind_of(owner) is Kind.CLASS:
        type.__setattr__(owner, name, value)
    elif name in ("monitor_op", "min_delta") and _is_monitor(owner):
        _set_monitor(owner, name, value)
    elif slot is not None:
        slot.__set__(owner, value)
    else:
        object.__getattribute__(owner, "__dict__")[name] = value


def _set_monitor(owner: Any, name: str, value: Any) -> None:
    attributes = vars(owner)
    flips = getattr(attributes.get("monitor_op"), "__name__", None) == "less"
    if name == "min_delta":
        attributes[name] = -value if flips else value
    elif value is None and flips:
        attributes.update(monitor_op=None, min_delta=-attributes.get("min_delta", 0))
    elif value is None or attributes.get("monitor_op") is None:
        attributes[name] = None
        if value is not None:
            _find_operation(owner, value)


def _find_operation(owner: Any, name: str) -> None:
    try:
        owner._set_monitor_op()  # by the mode that the program gives now
    except Exception:  # noqa: BLE001 - Keras can't tell from these metrics: as it was
        operation = {"less": keras.ops.less, "greater": keras.ops.greater}[name]
        vars(owner).update(monitor_op=operation)
        if name == "less":
            vars(owner)["min_delta"] = -vars(owner).get("min_delta", 0)


def delete_field(owner: Any, name: str) -> None:
    """Remove an attribute that the training removed."""
    if kind_of(owner) is not Kind.CLASS and ":" not in name and type(owner).__dictoffset__:
        object.__getattribute__(owner, "__dict__").pop(name, None)


def kind_of_instances(cls: type) -> Kind:
    """Return how the state of a class's instances is taken."""
    return _kind(cls)
