"""TensorBoard's event files, continuous however often a training was killed.

They are made from the History of a committed checkpoint, whole each time: every epoch stands in
them once, at its own step, and the file of a longer History begins with the bytes of a shorter
one's, so that a TensorBoard that is watching reads on.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    import tensorflow as tf

    event = tf.compat.v1.Event
    summary = tf.compat.v1.Summary
    records = [event(file_version="brain.Event:2")]
    for epoch in range(max(map(len, scalars.values()), default=0)):
        values = [
            summary.Value(tag=tag, simple_value=float("nan") if v[epoch] is None else v[epoch])
            for tag, v in sorted(scalars.items())
            if epoch < len(v)
        ]
        time = times[epoch] if epoch < len(times) else 0.0
        records.append(event(wall_time=time, step=epoch, summary=summary(value=values)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record.SerializeToString(deterministic=True))
        return path.read_bytes()
