"""Packs are safetensors files; a header that lies is refused whatever it says."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize

from runner.checkpoint import packs
from runner.errors import CheckpointError


def whole(tensors: list[tuple[str, Any]]) -> bytes:
    header, _ = packs.build(tensors)
    return header + b"".join(bytes(packs.as_bytes(array)) for _, array in tensors)


def test_reference_implementation_reads_our_packs() -> None:
    """Every dtype, scalars, empty arrays and arrays that are not contiguous."""
    tensors: list[tuple[str, Any]] = [
        ("f64", np.array(0.1)),
        ("f32", np.arange(12, dtype="float32").reshape(3, 4).T),
        ("i64", np.array([-1, 2**62])),
        ("bf16", np.array([1.5, -2], dtype=ml_dtypes.bfloat16)),
        ("f16", np.ones((2, 2), "float16")),
        ("empty", np.zeros((0, 3), "float32")),
        ("u8", np.arange(3, dtype="uint8")),
        ("bool", np.array([True, False])),
    ]
    data = whole(tensors)
    found = dict(deserialize(data))  # type: ignore[no-untyped-call]
    entries = packs.parse(data, len(data))
    assert entries == packs.build(tensors)[1]  # the writer knows where the reader finds them
    for name, array in tensors:
        assert bytes(found[name]["data"]) == np.ascontiguousarray(array).tobytes()
        assert found[name]["shape"] == list(array.shape)
        entry = entries[name]
        view = memoryview(data)[entry.offset : entry.offset + entry.length]
        ours = packs.array_from(view, entry.dtype, entry.shape)
        assert ours.dtype == array.dtype
        np.testing.assert_array_equal(ours, array)


def test_bytes_are_not_copied() -> None:
    array = np.arange(1000.0)
    assert np.shares_memory(np.frombuffer(packs.as_bytes(array), np.uint8), array)


def test_dtype_without_a_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="x: dtype complex128"):
        packs.build([("x", np.zeros(1, "complex128"))])


def lying(table: Any, size: int = 8) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 1000) + b"{}",
        lying(b"\xff\xfe"),
        lying(b"[" * 5000),
        lying([1]),
        lying({"a": 5}),
        lying({"a": {**ENTRY, "dtype": "F33"}}),
        lying({"a": {**ENTRY, "shape": [3]}}),
        lying({"a": {**ENTRY, "shape": [-2]}}),
        lying({"a": {**ENTRY, "shape": [2.0]}}),
        lying({"a": {**ENTRY, "shape": [2**40, 2**40]}}),
        lying({"a": {**ENTRY, "data_offsets": [4, 12]}}),
        lying({"a": {**ENTRY, "data_offsets": [8, 0]}}),
        lying({"a": {**ENTRY, "data_offsets": [0, 8, 16]}}),
        lying({"a": ENTRY, "b": ENTRY}),
        lying({"a": ENTRY}, size=9),
        lying({"a": ENTRY, "b": {**ENTRY, "data_offsets": [16, 24]}}, size=24),
        lying({"a": ENTRY}, size=7),
    ],
)
def test_lying_header_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        packs.parse(data, len(data))


def test_every_flipped_header_byte_is_harmless(tmp_path: Path) -> None:
    """Read or refused, but never an error of another kind, and never outside the file."""
    tensors: list[tuple[str, Any]] = [("a", np.arange(3.0)), ("b", np.arange(2, dtype="int8"))]
    data = whole(tensors)
    size = packs.header_length(data, len(data))
    for index in range(size):
        for flip in (1, 128, 255):
            wrong = bytearray(data)
            wrong[index] ^= flip
            try:
                entries = packs.parse(bytes(wrong), len(wrong))
            except CheckpointError:
                continue
            assert all(0 <= e.offset <= e.offset + e.length <= len(data) for e in entries.values())
