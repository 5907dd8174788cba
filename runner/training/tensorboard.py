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

import google_crc32c

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
    records = [_sized(3, b"brain.Event:2")]
    for epoch in range(max(map(len, scalars.values()), default=0)):
        values = b"".join(
            _sized(1, _sized(1, tag.encode()) + b"\x15" + struct.pack("<f", _number(v[epoch])))
            for tag, v in sorted(scalars.items())
            if epoch < len(v)
        )
        # as protocol buffers want it, numbers that are 0 are left out
        time = times[epoch] if epoch < len(times) else 0.0
        at = b"\x09" + struct.pack("<d", time) if time else b""
        step = b"\x10" + _varint(epoch) if epoch else b""
        records.append(at + step + _sized(5, values))
    return b"".join(map(_framed, records))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# ---------------------------------------------------------------------- the form of these files
# Protocol buffers in TFRecord frames: JAX is to need no TensorFlow for them.


def _sized(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


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
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
