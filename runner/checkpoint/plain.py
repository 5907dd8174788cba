"""Python state as JSON, exactly: what is read back equals what was written, bit for bit.

JSON knows no tuple, bytes, NaN, date, NumPy scalar or array. Those are written as a one-entry
object {"!kind": parts}: a table has, for each kind, what parts a value comes apart into, and how
they are put together again. The parts are encoded in turn. Arrays leave through `store_array`, so
that they travel as tensors (hashed, deduplicated) and only their name stays here. No pickle:
reading runs no code, and makes nothing but the kinds of the table.
"""

import base64
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import partial
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
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


class NotPlainError(TypeError):
    """A value that can't be written as plain data; the text says where and what it is."""


# ------------------------------------------------------------------ the kinds, and their parts


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()


def _float(bits: str) -> float:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    return float(value)


def _text(value: Any) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _zone_parts(zone: tzinfo | None) -> Any:
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        return [offset.days, offset.seconds, offset.microseconds, zone.tzname(None)]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if zone is None:
        return None
    raise NotPlainError(f"a time zone of {type(zone).__qualname__}")


def _zone(parts: Any) -> tzinfo | None:
    if parts is None:
        return None
    if isinstance(parts, str):
        return ZoneInfo(parts)
    offset, name = timedelta(*map(int, parts[:3])), parts[3]
    unnamed = timezone(offset)
    return unnamed if unnamed.tzname(None) == name else timezone(offset, name)


def _clock_parts(value: datetime | time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone_parts(value.tzinfo)]


def _clock(kind: Any, parts: Any) -> Any:
    text, fold, zone = parts
    return kind.fromisoformat(text).replace(fold=int(fold), tzinfo=_zone(zone))


def _path_parts(value: PurePath) -> list[str]:
    return [next(name for name, kind in _PATHS.items() if isinstance(value, kind)), str(value)]


def _pairs(value: Mapping[Any, Any]) -> list[Any]:
    return [[key, item] for key, item in value.items()]


def _factory_parts(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    name = getattr(factory, "__name__", None)
    if factory is None or MADE.get(str(name)) is factory:
        return [name, _pairs(value)]
    raise NotPlainError("a defaultdict whose factory is the program's")


def sorted_items(items: list[Any]) -> list[Any]:
    """Sort a set's encoded items: equal sets are equal bytes whatever the process's hash seed."""
    return sorted(items, key=lambda item: (type(item).__name__, repr(item)))


class _Kind(NamedTuple):
    name: str
    parts: Callable[[Any], Any]  #: of a value: JSON and other values of the table
    made: Callable[[Any], Any]  #: a value, of its parts
    ordered: Callable[[Any], Any] = lambda encoded: encoded  #: of the encoded parts


_PATHS = {"Path": Path, "PurePosixPath": PurePosixPath, "PureWindowsPath": PureWindowsPath}
_KINDS: dict[type, _Kind] = {
    float: _Kind("float", _bits, _float),  # those for which JSON has no word
    complex: _Kind(
        "complex", lambda v: [_bits(v.real), _bits(v.imag)], lambda p: complex(*map(_float, p))
    ),
    bytes: _Kind("bytes", _text, _bytes),
    bytearray: _Kind("bytearray", _text, lambda p: bytearray(_bytes(p))),
    range: _Kind("range", lambda v: [v.start, v.stop, v.step], lambda p: range(*map(int, p))),
    slice: _Kind("slice", lambda v: [v.start, v.stop, v.step], lambda p: slice(*p)),
    **dict.fromkeys(
        (type(Path()), PurePosixPath, PureWindowsPath),
        _Kind("path", _path_parts, lambda p: _PATHS[p[0]](p[1])),
    ),
    date: _Kind("date", date.isoformat, date.fromisoformat),
    datetime: _Kind("datetime", _clock_parts, partial(_clock, datetime)),
    time: _Kind("time", _clock_parts, partial(_clock, time)),
    timedelta: _Kind(
        "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda p: timedelta(*map(int, p)),
    ),
    np.generic: _Kind(
        "scalar",
        lambda v: [v.dtype.name, _text(v.tobytes())],
        lambda p: np.frombuffer(_bytes(p[1]), dtype=dtype_of(p[0]))[0],
    ),
    tuple: _Kind("tuple", list, tuple),
    set: _Kind("set", list, set, sorted_items),
    frozenset: _Kind("frozenset", list, frozenset, sorted_items),
    deque: _Kind("deque", lambda v: [list(v), v.maxlen], lambda p: deque(*p)),
    dict: _Kind("dict", _pairs, dict),
    OrderedDict: _Kind("ordered", _pairs, OrderedDict),
    Counter: _Kind("counter", _pairs, lambda p: Counter(dict(p))),
    defaultdict: _Kind(
        "defaultdict", _factory_parts, lambda p: defaultdict(p[0] and MADE[p[0]], p[1])
    ),
}
_MADE_BY = {f"!{kind.name}": kind.made for kind in _KINDS.values()}

# ------------------------------------------------------------------ writing


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
    """Return a value that holds no arrays as JSON-able data.

    Raises:
        NotPlainError: the value is of another kind.
    """
    return _encode(value, _refuse, path, 0)


def _refuse(path: str, array: Array) -> str:  # noqa: ARG001
    raise NotPlainError(f"{path}: an array")


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


def _encode(value: Any, store_array: StoreArray, path: str, depth: int) -> Any:
    kind = type(value)
    if kind in AS_IN_JSON or _is_finite(value):
        return value
    if depth > MAX_DEPTH:
        raise NotPlainError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    inner = partial(_encode, store_array=store_array, depth=depth + 1)
    if kind is list:
        numbers = set(map(type, value)) == {int}  # the states of generators, mostly
        return value[:] if numbers else [inner(v, path=f"{path}/{i}") for i, v in enumerate(value)]
    if _is_object(value):
        return {key: inner(item, path=f"{path}/{key}") for key, item in value.items()}
    if issubclass(kind, np.ndarray):
        return {"!array": store_array(path, check_array(value, path))}
    name, parts, ordered = _taken_apart(value, path)
    return {f"!{name}": ordered(_encode(parts, store_array, path, depth))}


def _is_finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_object(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str and key[:1] != "!" for key in value)


def _taken_apart(value: Any, path: str) -> tuple[str, Any, Callable[[Any], Any]]:
    kind = type(value)
    if issubclass(kind, np.generic) and is_told_by_name(value.dtype):
        kind = np.generic
    if kind not in _KINDS:
        raise NotPlainError(f"{path}: a {kind.__module__}.{kind.__qualname__}")
    try:
        return _KINDS[kind].name, _KINDS[kind].parts(value), _KINDS[kind].ordered
    except NotPlainError as error:
        raise NotPlainError(f"{path}: {error}") from None


# ------------------------------------------------------------------ reading


def decode(data: Any, load_array: LoadArray) -> Any:
    """Return the value that `encode` was given.

    Raises:
        CheckpointError: the data was not written by `encode`.
    """
    try:
        return _decode(data, load_array)
    except (ValueError, TypeError, LookupError, struct.error, OSError, RecursionError) as error:
        raise CheckpointError(f"state that can't be read back: {error!r}") from error


def decode_leaf(data: Any) -> Any:
    """Return the value that `encode_leaf` was given.

    Raises:
        CheckpointError: the data was not written by it.
    """
    no_arrays: dict[str, Array] = {}
    return decode(data, no_arrays.__getitem__)


def _decode(data: Any, load_array: LoadArray) -> Any:
    if isinstance(data, list):
        return [_decode(item, load_array) for item in data]
    if not isinstance(data, dict):
        return data
    name = next(iter(data), "")
    if len(data) == 1 and name.startswith("!"):
        inner = data[name]
        return load_array(inner) if name == "!array" else _MADE_BY[name](_decode(inner, load_array))
    return {key: _decode(item, load_array) for key, item in data.items()}
