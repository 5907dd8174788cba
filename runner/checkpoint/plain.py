"""Python state as JSON, exactly: what is read back equals what was written, bit for bit.

JSON knows no tuple, bytes, NaN, NumPy scalar or array. Those are written as a one-entry
object {"!kind": value}; arrays leave through `store_array`, so that they travel as tensors
(hashed, deduplicated) and only their name stays here. No pickle: reading runs no code.
"""

import base64
import math
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.checkpoint.dtypes import NAMES, dtype_of, is_told_by_name
from runner.errors import CheckpointError

Array = npt.NDArray[Any]
StoreArray = Callable[[str, Array], str]  #: (path of the array, array) -> name of its tensor
LoadArray = Callable[[str], Array]  #: name of a tensor -> its array

MAX_DEPTH = 64  #: nesting beyond this is a mistake (or an attack), not state


class NotPlainError(TypeError):
    """A value that can't be written as plain data; the text says where and what it is."""


def encode(value: Any, store_array: StoreArray, path: str = "") -> Any:
    """Return the value as JSON-able data that shares nothing with it.

    Args:
        value: None, bool, int, float, str, bytes, NumPy scalars and arrays, and lists, tuples,
            sets, deques and mappings of them.
        store_array: takes an array and returns the name to find it under.
        path: where the value stands, for names and errors.

    Raises:
        NotPlainError: the value, or one inside it, is of another kind.
    """
    return _encode(value, store_array, path, 0)


def _encode(value: Any, store_array: StoreArray, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlainError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"!float": _bits(value)}
    if isinstance(value, np.ndarray):
        if kind is not np.ndarray:  # a mask, or what else it knows, would be lost
            raise NotPlainError(f"{path}: a {kind.__module__}.{kind.__qualname__}")
        if value.dtype.name not in NAMES or not is_told_by_name(value.dtype):
            raise NotPlainError(f"{path}: an array of dtype {value.dtype.str}")
        return {"!array": store_array(path, value)}
    if isinstance(value, np.generic) and is_told_by_name(value.dtype):
        return {"!scalar": [value.dtype.name, base64.b64encode(value.tobytes()).decode()]}
    if kind in (bytes, bytearray):
        return {"!bytes": base64.b64encode(value).decode()}
    return _encode_container(value, store_array, path, depth + 1)


def _encode_container(value: Any, store_array: StoreArray, path: str, depth: int) -> Any:
    def items(values: Any) -> list[Any]:
        return [_encode(v, store_array, f"{path}/{i}", depth) for i, v in enumerate(values)]

    kind = type(value)
    if kind is list:
        return items(value)
    if kind is tuple:
        return {"!tuple": items(value)}
    if kind is deque:
        return {"!deque": [items(value), value.maxlen]}
    if kind in (set, frozenset):
        # sorted, so that equal sets are equal bytes whatever the process's hash seed
        return {f"!{kind.__name__}": items(sorted(value, key=lambda v: (type(v).__name__, v)))}
    if isinstance(value, Mapping) and isinstance(value, dict):
        return _encode_mapping(value, store_array, path, depth)
    raise NotPlainError(f"{path}: a {kind.__module__}.{kind.__qualname__}")


def _encode_mapping(value: dict[Any, Any], store_array: StoreArray, path: str, depth: int) -> Any:
    simple = all(type(k) is str and not k.startswith("!") for k in value)
    if simple and type(value) is not OrderedDict:
        return {k: _encode(v, store_array, f"{path}/{k}", depth) for k, v in value.items()}
    name = "!ordered" if type(value) is OrderedDict else "!dict"
    return {
        name: [
            [_encode(k, store_array, path, depth), _encode(v, store_array, f"{path}/{k}", depth)]
            for k, v in value.items()
        ]
    }


def decode(data: Any, load_array: LoadArray) -> Any:
    """Return the value that `encode` was given.

    Raises:
        CheckpointError: the data was not written by `encode`.
    """
    try:
        return _decode(data, load_array, 0)
    except (ValueError, TypeError, KeyError, struct.error) as error:
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

    match name:
        case "!float":
            return struct.unpack(">d", bytes.fromhex(inner))[0]
        case "!bytes":
            return base64.b64decode(inner, validate=True)
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
            return {_decode(k, load_array, depth): _decode(v, load_array, depth) for k, v in inner}
        case "!ordered":
            return OrderedDict(
                (_decode(k, load_array, depth), _decode(v, load_array, depth)) for k, v in inner
            )
        case _:
            raise ValueError(f"unknown kind {name!r}")


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()
