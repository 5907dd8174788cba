"""TensorBoard's event files, continuous however often a training was killed.

They are made from the History of a committed checkpoint, whole each time: every epoch stands in
them once, at its own step, and the file of a longer History begins with the bytes of a shorter
one's, so that a TensorBoard that is watching reads on.
"""

import logging
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from runner.checkpoint.manifest import Manifest
from runner.errors import StoreError
from runner.store.base import Store

logger = logging.getLogger(__name__)

_FILE = "events.out.tfevents.0000000000.runner"


class Boards:
    """Keeps a job's event files at `<prefix>/tensorboard/{train,validation}/` up to date."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._folder = f"{prefix}/tensorboard"
        self._epochs = 0

    def committed(self, manifest: Manifest) -> None:
        """Write what a committed checkpoint knows, if an epoch has ended since the last one."""
        python = manifest.python if isinstance(manifest.python, dict) else {}
        self.write(manifest.history, python.get("epoch_times") or [])

    def write(self, history: Mapping[str, Sequence[Any]], times: Sequence[float]) -> None:
        """Write the files; a failure is no reason to end a training."""
        epochs = max(map(len, history.values()), default=0)
        if epochs <= self._epochs:
            return
        try:
            for run, prefix in (("train", ""), ("validation", "val_")):
                scalars = _scalars(history, prefix)
                if scalars:
                    self._store.put(f"{self._folder}/{run}/{_FILE}", event_file(scalars, times))
        except StoreError as error:
            logger.warning("TensorBoard's files could not be written: %s", error)
        else:
            self._epochs = epochs


def _scalars(history: Mapping[str, Sequence[Any]], prefix: str) -> dict[str, Sequence[Any]]:
    """The metrics of one run, named as Keras's TensorBoard callback names them."""
    return {
        f"epoch_{name.removeprefix(prefix)}": values
        for name, values in history.items()
        if name.startswith("val_") == bool(prefix)
    }


def event_file(scalars: Mapping[str, Sequence[Any]], times: Sequence[float]) -> bytes:
    """Return an event file: one value of every metric at the step of its epoch, from 0.

    Args:
        scalars: the metrics' values; None for one that was no finite number.
        times: when the epochs ended, seconds since 1970; missing ones are 0.
    """
    records = [_text(3, "brain.Event:2")]
    for epoch in range(max(map(len, scalars.values()), default=0)):
        values = b"".join(
            _bytes(1, _text(1, tag) + _float(2, math.nan if v[epoch] is None else v[epoch]))
            for tag, v in sorted(scalars.items())
            if epoch < len(v)
        )
        time = times[epoch] if epoch < len(times) else 0.0
        records.append(_time(1, time) + _number(2, epoch) + _bytes(5, values))
    return b"".join(map(_framed, records))


# ---------------------------------------------------------------------- the form of these files
# Protocol buffers in TFRecord frames, written out: JAX is to need no TensorFlow for them. As
# protocol buffers want it, numbers that are 0 are left out (but not within a oneof: `_float`).


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _time(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value) if value else b""


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + _checksum(length) + record + _checksum(record)


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted so that a checksum of checksums stays one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_remainder(byte) for byte in range(256)]
