"""Python state as JSON, exactly: what is read back equals what was written, bit for bit.

JSON knows no tuple, bytes, NaN, date, NumPy scalar or array. Those are written as a one-entry
object {"!kind": value}; arrays leave through `store_array`, so that they travel as tensors
(hashed, deduplicated) and only their name stays here. No pickle: reading runs no code, and
makes nothing but the kinds that are listed here.
"""

import base64
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from runner.checkpoint.dtypes import NAMES, dtype_of, is_told_by_name
from runner.errors import CheckpointError

Array = npt.NDArray[Any]
StoreArray = Callable[[str, Array], str]  #: (path of the array, array) -> name of its tensor
LoadArray = Callable[[str], Array]  #: name of a tensor -> its array

MAX_DEPTH = 64  #: nesting beyond this is a mistake (or an attack), not state
#: kinds that may be named in data: they make nothing but an empty value
MADE = {
    kind.__name__: kind
    for kind in (
        *(bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset),
        *(deque, Counter, OrderedDict, defaultdict),
    )
}
AS_IN_JSON = frozenset({type(None), bool, int, str})  #: kinds that JSON has, exactly
_PATHS: dict[str, type] = {
    "Path": Path,
    "PurePosixPath": PurePosixPath,
    "PureWindowsPath": PureWindowsPath,
}
_PATH_NAMES: dict[type, str] = {kind: name for name, kind in _PATHS.items()} | {
    type(Path()): "Path"
}


class NotPlainError(TypeError):
    """A value that can't be written as plain data; the text says where and what it is."""


def encode(value: Any, store_array: StoreArray, path: str = "") -> Any:
    """Return the value as JSON-able data that shares nothing with it.

    Args:
        value: None, numbers, texts, bytes, ranges, slices, paths, dates and times, NumPy scalars
            and arrays, and lists, tuples, sets, deques and dictionaries of them.
        store_array: takes an array and returns the name to find it under.
        path: where the value stands, for names and errors.

    Raises:
        NotPlainError: the value, or one inside it, is of another kind.
    """
    return _encode(value, store_array, path, 0)


def encode_leaf(value: Any, path: str) -> Any:
    """Return a value that holds no others as JSON-able data.

    Raises:
        NotPlainError: the value is of another kind.
    """
    kind = type(value)
    if kind in AS_IN_JSON:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"!float": _bits(value)}
    if kind in (bytes, bytearray):
        return {f"!{kind.__name__}": base64.b64encode(value).decode()}
    if kind is complex:
        return {"!complex": [_bits(value.real), _bits(value.imag)]}
    if kind is range:
        return {"!range": [value.start, value.stop, value.step]}
    if kind is slice:
        parts = (value.start, value.stop, value.step)
        return {"!slice": [encode_leaf(part, path) for part in parts]}
    if kind in _PATH_NAMES:
        return {"!path": [_PATH_NAMES[kind], str(value)]}
    if issubclass(kind, np.generic) and is_told_by_name(value.dtype):
        return {"!scalar": [value.dtype.name, base64.b64encode(value.tobytes()).decode()]}
    return _encode_time(value, path)


def _encode_time(value: Any, path: str) -> Any:
    kind = type(value)
    if kind is timedelta:
        return {"!timedelta": [value.days, value.seconds, value.microseconds]}
    if kind is date:
        return {"!date": value.isoformat()}
    if kind is datetime or kind is time:
        zone = None if value.tzinfo is None else _encode_zone(value.tzinfo, path)
        return {f"!{kind.__name__}": [value.replace(tzinfo=None).isoformat(), value.fold, zone]}
    raise NotPlainError(f"{path}: a {kind.__module__}.{kind.__qualname__}")


def _encode_zone(zone: tzinfo, path: str) -> Any:
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        return [offset.days, offset.seconds, offset.microseconds, zone.tzname(None)]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise NotPlainError(f"{path}: a time zone of {type(zone).__qualname__}")


def check_array(value: Array, path: str) -> Array:
    """Return an array that can be stored.

    Raises:
        NotPlainError: it would come back as another.
    """
    kind = type(value)
    if kind is not np.ndarray:  # a mask, or what else it knows, would be lost
        raise NotPlainError(f"{path}: a {kind.__module__}.{kind.__qualname__}")
    if value.dtype.name not in NAMES or not is_told_by_name(value.dtype):
        raise NotPlainError(f"{path}: an array of dtype {value.dtype.str}")
    return value


def sorted_items(items: list[Any]) -> list[Any]:
    """Sort a set's encoded items: equal sets are equal bytes whatever the process's hash seed."""
    return sorted(items, key=lambda item: (type(item).__name__, repr(item)))


def _encode(value: Any, store_array: StoreArray, path: str, depth: int) -> Any:
    def items(values: Any) -> list[Any]:
        found: list[Any] = list(values)
        if set(map(type, found)) == {int}:  # the states of generators, mostly
            return found
        return [
            v if type(v) in AS_IN_JSON else _encode(v, store_array, f"{path}/{i}", depth + 1)
            for i, v in enumerate(found)
        ]

    if depth > MAX_DEPTH:
        raise NotPlainError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if issubclass(kind, np.ndarray):
        return {"!array": store_array(path, check_array(value, path))}
    if kind is list:
        return items(value)
    if kind is tuple:
        return {"!tuple": items(value)}
    if kind is deque:
        return {"!deque": [items(value), value.maxlen]}
    if kind in (set, frozenset):
        return {f"!{kind.__name__}": sorted_items(items(value))}
    if kind in (dict, OrderedDict, Counter, defaultdict):
        return _encode_mapping(value, store_array, path, depth + 1)
    return encode_leaf(value, path)


def _encode_mapping(value: dict[Any, Any], store_array: StoreArray, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is dict and all(type(k) is str and not k.startswith("!") for k in value):
        return {k: _encode(v, store_array, f"{path}/{k}", depth) for k, v in value.items()}
    pairs = [
        [_encode(k, store_array, path, depth), _encode(v, store_array, f"{path}/{k}", depth)]
        for k, v in value.items()
    ]
    if isinstance(value, defaultdict):
        return {"!defaultdict": [_factory_name(value.default_factory, path), pairs]}
    return {{dict: "!dict", OrderedDict: "!ordered", Counter: "!counter"}[kind]: pairs}


def _factory_name(factory: Any, path: str) -> str | None:
    name = getattr(factory, "__name__", None)
    if factory is None or MADE.get(str(name)) is factory:
        return name
    raise NotPlainError(f"{path}: a defaultdict whose factory is the program's")


def decode(data: Any, load_array: LoadArray) -> Any:
    """Return the value that `encode` was given.

    Raises:
        CheckpointError: the data was not written by `encode`.
    """
    try:
        return _decode(data, load_array, 0)
    except (ValueError, TypeError, LookupError, struct.error, OSError) as error:
        raise CheckpointError(f"state that can't be read back: {error}") from error


def _decode(data: Any, load_array: LoadArray, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(data, list):
        return [_decode(item, load_array, depth + 1) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        (name, inner), *_ = data.items()
        if name.startswith("!"):
            return _decode_tagged(name, inner, load_array, depth + 1)
    return {key: _decode(item, load_array, depth + 1) for key, item in data.items()}


def _decode_tagged(name: str, inner: Any, load_array: LoadArray, depth: int) -> Any:
    def items(values: Any) -> list[Any]:
        return [_decode(v, load_array, depth) for v in values]

    def pairs(values: Any) -> dict[Any, Any]:
        return {_decode(k, load_array, depth): _decode(v, load_array, depth) for k, v in values}

    match name:
        case "!float":
            return struct.unpack(">d", bytes.fromhex(inner))[0]
        case "!bytes":
            return base64.b64decode(inner, validate=True)
        case "!bytearray":
            return bytearray(base64.b64decode(inner, validate=True))
        case "!complex":
            return complex(*(struct.unpack(">d", bytes.fromhex(part))[0] for part in inner))
        case "!range":
            return range(*map(int, inner))
        case "!slice":
            return slice(*items(inner))
        case "!path":
            return _PATHS[inner[0]](inner[1])
        case "!date":
            return date.fromisoformat(inner)
        case "!datetime":
            return _decode_time(datetime.fromisoformat(inner[0]), *inner[1:])
        case "!time":
            return _decode_time(time.fromisoformat(inner[0]), *inner[1:])
        case "!timedelta":
            return timedelta(*map(int, inner))
        case "!scalar":
            return np.frombuffer(base64.b64decode(inner[1]), dtype=dtype_of(inner[0]))[0]
        case "!array":
            return load_array(inner)
        case "!tuple":
            return tuple(items(inner))
        case "!deque":
            return deque(items(inner[0]), maxlen=inner[1])
        case "!set":
            return set(items(inner))
        case "!frozenset":
            return frozenset(items(inner))
        case "!dict":
            return pairs(inner)
        case "!ordered":
            return OrderedDict(pairs(inner))
        case "!counter":
            return Counter(pairs(inner))
        case "!defaultdict":
            return defaultdict(None if inner[0] is None else MADE[inner[0]], pairs(inner[1]))
        case _:
            raise ValueError(f"unknown kind {name!r}")


def _decode_time(naive: Any, fold: int, zone: Any) -> Any:
    if isinstance(zone, str):
        zone = ZoneInfo(zone)
    elif zone is not None:
        offset = timezone(timedelta(*map(int, zone[:3])))
        zone = (
            offset if offset.tzname(None) == zone[3] else timezone(offset.utcoffset(None), zone[3])
        )
    return naive.replace(fold=int(fold), tzinfo=zone)


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()
