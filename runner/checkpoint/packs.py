"""Packs: safetensors files whose every byte is checked before it is believed.

A pack is an ordinary safetensors file, readable by any tool. It is named by its content and
never changed, so a pack that a manifest names is either whole or provably damaged. The
writer copies no tensor; the reader trusts neither lengths nor offsets nor names in the file.
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3

from runner.checkpoint.dtypes import NAMES, dtype_of
from runner.checkpoint.plain import Array
from runner.errors import CheckpointError

MAX_HEADER = 64 * 1024 * 1024  #: bytes; 100,000 tensors need about 15 MB

_DTYPES = {short: name for name, short in NAMES.items()}


class Entry(NamedTuple):
    """Where one tensor lies in a pack."""

    dtype: str  #: NumPy's name
    shape: tuple[int, ...]
    offset: int  #: bytes from the beginning of the file
    length: int  #: bytes


def as_bytes(array: Array) -> memoryview:
    """Return the array's bytes without copying, unless it is not contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data if flat.size else memoryview(b"")


def hash_bytes(data: bytes | memoryview) -> str:
    """Return the BLAKE3 of the bytes in hexadecimal."""
    return blake3(data).hexdigest()


def build(tensors: Sequence[tuple[str, Array]]) -> tuple[bytes, dict[str, Entry]]:
    """Return the header of a pack of these tensors, and where each will lie.

    The file is the header followed by the tensors' bytes in the given order. The widest dtypes
    should come first, so that all stay aligned.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "runner", "version": "1"}}
    offset = 0
    for name, array in tensors:
        dtype = array.dtype.name
        if dtype not in NAMES:
            raise CheckpointError(f"{name}: dtype {dtype} has no place in a pack.")
        table[name] = {
            "dtype": NAMES[dtype],
            "shape": array.shape,
            "data_offsets": (offset, offset + array.nbytes),
        }
        offset += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    begins = {name: len(header) + table[name]["data_offsets"][0] for name, _ in tensors}
    return header, {
        name: Entry(array.dtype.name, array.shape, begins[name], array.nbytes)
        for name, array in tensors
    }


def header_length(start: bytes, total: int) -> int:
    """Return the length of a pack's whole header, given its first 8 bytes.

    Raises:
        CheckpointError: it can't be one in a file of `total` bytes.
    """
    if len(start) < 8:
        raise CheckpointError(f"cut: {len(start)} bytes are no pack.")
    (length,) = struct.unpack("<Q", start[:8])
    if not 2 <= length <= min(MAX_HEADER, total - 8):
        raise CheckpointError(f"a header of {length} bytes in a file of {total}.")
    return 8 + int(length)


def parse(header: bytes, total: int) -> dict[str, Entry]:
    """Return where each tensor lies, from a header of a file of `total` bytes.

    Raises:
        CheckpointError: the header lies: not JSON, an unknown dtype, lengths that don't fit
            the shapes, tensors that overlap, leave holes or end outside the file.
    """
    size = header_length(header[:8], total)
    try:
        table = json.loads(header[8:size])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"a header that is not JSON ({type(error).__name__}).") from error
    if not isinstance(table, dict):
        raise CheckpointError("a header that is no JSON object.")
    table.pop("__metadata__", None)
    entries = {name: _entry(name, item, size, total) for name, item in table.items()}
    _check_cover(entries, size, total)
    return entries


def _entry(name: str, item: Any, header: int, total: int) -> Entry:
    try:
        dtype, shape = _DTYPES[item["dtype"]], tuple(item["shape"])
        begin, end = item["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: an invalid header entry.") from error
    numbers = (*shape, begin, end)
    if not all(type(number) is int and 0 <= number <= total for number in numbers):
        raise CheckpointError(f"{name}: shape {shape}, offsets {begin}, {end} can't be.")
    length = math.prod(shape) * dtype_of(dtype).itemsize
    if end - begin != length or header + end > total:
        raise CheckpointError(f"{name}: {length} bytes by shape, {end - begin} by offsets.")
    return Entry(dtype, shape, header + begin, length)


def _check_cover(entries: dict[str, Entry], header: int, total: int) -> None:
    position = header
    for name, entry in sorted(entries.items(), key=lambda e: (e[1].offset, e[1].length)):
        if entry.offset != position:
            raise CheckpointError(f"{name} begins at {entry.offset}, expected {position}.")
        position += entry.length
    if position != total:
        raise CheckpointError(f"{total - position} bytes of the file belong to no tensor.")


def array_from(data: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return the bytes as an array of the kind, without copying; it is read-only."""
    array = np.frombuffer(data, dtype=dtype_of(dtype)).reshape(shape)
    array.flags.writeable = False
    return array
