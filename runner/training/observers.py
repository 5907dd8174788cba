"""The Python state around a training: other callbacks, History, random generators.

A callback with `get_state` and `set_state` says itself what it is. Of any other, all plain
attributes are taken (numbers, text, arrays, containers of them); what can't be taken and may
matter is named once in a warning, never dropped in silence.
"""

import csv
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from runner.checkpoint.manifest import PYTHON
from runner.checkpoint.plain import Array, NotPlainError, decode, encode
from runner.errors import CheckpointError

logger = logging.getLogger(__name__)

#: attributes that belong to the running fit, not to the state
_FIT_OWNS = {"_model", "params", "validation_data", "csv_file", "writer", "progbar", "monitor_op"}
#: attributes whose arrays Keras replaces and never writes into: they need no copy
_REPLACED = {"best_weights"}


class Observers:
    """Captures and restores the callbacks of one fit.

    Args:
        callbacks: in the order in which fit calls them, without our own.
        warn: told, once each, what can't be saved.
    """

    def __init__(self, callbacks: Sequence[Any], *, warn: Callable[[str], None]) -> None:
        skipped = keras.callbacks.ProgbarLogger  # only draws
        self._callbacks = [c for c in callbacks if not isinstance(c, skipped)]
        self._warn = warn
        self._warned: set[tuple[str, str]] = set()

    def capture(self) -> tuple[Any, list[tuple[str, Array]]]:
        """Return the state as JSON, and the arrays in it as named tensors."""
        arrays: list[tuple[str, Array]] = []

        def store(path: str, array: Array) -> str:
            name = f"{PYTHON}{len(arrays):05d}/{path}"
            replaced = any(part in _REPLACED for part in path.split("/"))
            arrays.append((name, array if replaced else np.array(array, copy=True)))
            return name

        states = [
            [name, self._encode(name, callback, store)]
            for name, callback in zip(self._names(), self._callbacks, strict=True)
        ]
        data = {
            "callbacks": states,
            "random": encode(random.getstate(), store, "random"),
            "numpy": encode(np.random.get_state(), store, "numpy"),
        }
        return data, arrays

    def restore(self, data: Any, tensors: Mapping[str, Array]) -> None:
        """Set all callbacks and generators to a captured state."""

        def load(name: str) -> Array:
            if name not in tensors:
                raise CheckpointError(f"the array {name} of the Python state is missing.")
            return tensors[name].copy()

        saved = dict(data["callbacks"])
        for name, callback in zip(self._names(), self._callbacks, strict=True):
            if name in saved:
                _restore_callback(callback, decode(saved.pop(name), load))
            elif _is_stateful(callback):
                self._warn(f"the callback {name} was not there when the checkpoint was written.")
        for name, state in saved.items():
            if any(state.values()):
                self._warn(f"the callback {name} of the checkpoint is not there any more.")
        random.setstate(decode(data["random"], load))
        np.random.set_state(decode(data["numpy"], load))

    def _names(self) -> list[str]:
        """A name for each: its class, and which of that class it is."""
        counts: dict[str, int] = {}
        names = []
        for callback in self._callbacks:
            kind = type(callback).__qualname__
            counts[kind] = counts.get(kind, 0) + 1
            names.append(f"{kind}#{counts[kind]}" if counts[kind] > 1 else kind)
        return names

    def _encode(self, name: str, callback: Any, store: Callable[[str, Array], str]) -> Any:
        if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
            return encode({"state": callback.get_state()}, store, name)
        state: dict[str, Any] = {}
        for key, value in vars(callback).items():
            if key in _FIT_OWNS:
                continue
            try:
                state[key] = encode(value, store, f"{name}/{key}")
            except (NotPlainError, TypeError) as error:
                self._explain(name, callback, key, value, error)
        return {"attributes": state, **_special(callback, store, name)}

    def _explain(self, name: str, callback: Any, key: str, value: Any, error: Exception) -> None:
        own = type(callback).__module__.startswith("keras.")
        if own or _is_machinery(value) or (name, key) in self._warned:
            return
        self._warned.add((name, key))
        self._warn(
            f"{name}.{key} is not saved in checkpoints ({error}): after a resume it is what the "
            "program sets it to. If it matters, give the callback get_state() and set_state()."
        )


def _special(callback: Any, store: Callable[[str, Array], str], name: str) -> dict[str, Any]:
    """What plain attributes don't say."""
    special: dict[str, Any] = {}
    monitor_op = getattr(callback, "monitor_op", None)
    if monitor_op is not None:  # set at the first epoch's end; setting it flips min_delta's sign
        special["monitor_op"] = getattr(monitor_op, "__name__", None)
    if isinstance(callback, keras.callbacks.CSVLogger) and callback.csv_file:
        if not callback.csv_file.closed:
            callback.csv_file.flush()
        special["csv"] = encode(Path(callback.filename).read_bytes(), store, name)
    return special


def _restore_callback(callback: Any, saved: Any) -> None:
    if "state" in saved:
        callback.set_state(saved["state"])
        return
    vars(callback).update(saved["attributes"])
    operation = saved.get("monitor_op")
    if operation is not None:
        callback.monitor_op = getattr(keras.ops, operation, None) or getattr(np, operation)
    if "csv" in saved:
        _restore_csv(callback, saved["csv"])


def _restore_csv(callback: Any, content: bytes) -> None:
    """Drop the rows written after the checkpoint, or make the file anew on another machine."""
    path = Path(callback.filename)
    if callback.csv_file is None or callback.csv_file.closed:  # the training has ended
        path.write_bytes(content)
        return
    callback.csv_file.close()
    path.write_bytes(content)
    callback.csv_file = path.open("a", newline="")
    callback.writer = None  # made anew at the next row, with a header
    if content and callback.keys:
        names = ["epoch", *callback.keys]
        callback.writer = csv.DictWriter(callback.csv_file, names, delimiter=callback.sep)


def _is_machinery(value: Any) -> bool:
    """Whether a value is code or a handle, which a fresh process makes anew."""
    kinds = (type, keras.layers.Layer, keras.optimizers.Optimizer, keras.Variable, Path)
    return callable(value) or isinstance(value, kinds)


def _is_stateful(callback: Any) -> bool:
    return any(key not in _FIT_OWNS for key in vars(callback))
