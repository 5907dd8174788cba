"""The Python state around a training: other callbacks, History, random generators.

A callback with `get_state` and `set_state` gives its state itself. Of any other, all that its
attributes, its methods' closures and globals refer to is captured, as `given` explains; what can't
be captured and may matter is named once in a warning, never dropped in silence.

What a callback is given and never changes is the program's, also after a resume.
"""

import csv
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from runner.checkpoint.manifest import PYTHON
from runner.checkpoint.plain import Array, LoadArray, NotPlainError, StoreArray, decode, encode
from runner.errors import CheckpointError
from runner.training import backends
from runner.training.state import files, looking, restoring
from runner.training.state.given import MISSING, Given, Place, are_same, name_of

#: attributes whose arrays Keras replaces and never writes into: they need no copy
_REPLACED = {"best_weights"}
#: by its place: an object's id, its fields as given and as the last interrupted fit left them
_left: dict[str, tuple[int, Mapping[str, Any], Mapping[str, Any]]] = {}
_FORM = 3  #: of what is captured; the first had a list of callbacks, each with its attributes


class Observers:
    """Captures and restores the callbacks of one fit.

    Made before any `on_train_begin`: what the callbacks are then, the program gave them.

    Args:
        callbacks: in the order in which fit calls them, without our own.
        warn: called, once each, for what can't be saved, and what is configured otherwise.
        extra: more objects with Python state, by name: layers, models or optimizers of the
            user's own, of which the attributes are captured that their code mentions.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        *,
        warn: Callable[[str], None],
        extra: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._callbacks = _named(callbacks)
        self._given = Given(warn=warn)
        self._stateful = {n: c for n, c in self._callbacks.items() if _is_stateful(c)}
        for name, callback in self._stateful.items():
            self._given.hold(name, callback)
            self._given.apart.add(id(callback))
        silent = {n: c for n, c in self._callbacks.items() if n not in self._stateful}
        looking.add(self._given, {**silent, **dict(extra)})
        for key in _left.keys() & self._given.places.keys():
            self._given.places[key].left = _given_before(self._given.places[key], *_left[key])

    def leave(self) -> None:
        """Take note of what an interrupted fit has made of its callbacks: nobody gave them that.

        The next fit of this process may get the same objects.
        """
        left = Given(warn=lambda _: None)
        looking.add(left, self._given.roots)
        _left.clear()
        for key, place in self._given.places.items():
            if key in left.places and left.places[key].value is place.value:
                given = {**(place.first or {}), **place.left}
                _left[key] = (id(place.value), given, left.places[key].first or {})

    def begin(self, state: Mapping[str, Collection[str]] | None = None) -> None:
        """Take note of what on_train_begin made: it is the same in each process.

        Args:
            state: names of `extra` objects, and of their attributes that no program gives.
        """
        for name, fields in (state or {}).items():
            self._given.is_state(name, fields)
        looking.begin(self._given)

    def covered(self) -> set[tuple[int, str]]:
        """Return what is captured: (id of an object, attribute); "" for a container's content."""
        stateful = {(id(c), name) for c in self._stateful.values() for name in vars(c)}
        return looking.covered(self._given) | stateful

    def _loggers(self) -> dict[str, Any]:
        """Return the CSVLoggers whose file is open: Keras opens it when the training begins."""
        kind = keras.callbacks.CSVLogger
        return {
            n: c
            for n, c in self._callbacks.items()
            if isinstance(c, kind) and getattr(c, "csv_file", None)
        }

    def capture(self) -> tuple[Any, list[tuple[str, Array]]]:
        """Return the state as JSON, and the arrays in it as named tensors."""
        arrays: list[tuple[str, Array]] = []

        def store(path: str, array: Array) -> str:
            name = f"{PYTHON}{len(arrays):05d}/{path}"
            replaced = _REPLACED & set(path.split("/"))
            arrays.append((name, array if replaced else np.array(array, copy=True)))
            return name

        data = {
            "callbacks": {
                "form": _FORM,
                "names": list(self._callbacks),
                "states": self._states(store),
                "nodes": looking.capture(self._given, store),
                "csv": self._csv(store),
            },
            "random": encode(random.getstate(), store, "random"),
            "numpy": encode(np.random.get_state(), store, "numpy"),
            "backend": encode(backends.current().random_state(), store, "backend"),
        }
        return data, arrays

    def _states(self, store: StoreArray) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for name, callback in self._stateful.items():
            try:
                states[name] = encode(callback.get_state(), store, name)
            except Exception as error:  # noqa: BLE001 - nobody's state may end the training
                self._given.warn(f"the state of {name_of(name)} is not saved: {error!r}")
        return states

    def _csv(self, store: StoreArray) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, callback in self._loggers().items():
            try:
                position, length, content = files.look(callback.csv_file)
                stored = None if content is None else store(f"{name}/csv", content)
                found[name] = [position, length, stored]
            except (OSError, AttributeError, NotPlainError) as error:
                self._given.warn(f"{name_of(name)}'s file is not saved in checkpoints: {error}")
        return found

    # ------------------------------------------------------------------ restoring

    def restore(self, data: Any, tensors: Mapping[str, Array]) -> None:
        """Set all callbacks and generators to a captured state."""
        self.restore_objects(data, tensors)
        load = partial(_load, tensors)
        random.setstate(decode(data["random"], load))
        np.random.set_state(decode(data["numpy"], load))
        backends.current().set_random_state(decode(data.get("backend"), load))

    def restore_objects(self, data: Any, tensors: Mapping[str, Array]) -> None:
        """Set all callbacks, and the other objects, to a captured state."""
        saved, load = data["callbacks"], partial(_load, tensors)
        if isinstance(saved, list):
            self._restore_first_form(dict(saved), load)
        elif saved.get("form") != _FORM:
            raise CheckpointError(f"Python state of the form {saved.get('form')}, not {_FORM}.")
        else:
            self._restore(saved, load)

    def _restore(self, saved: Any, load: LoadArray) -> None:
        self._compare_names(saved["names"])
        kind = keras.callbacks.ModelCheckpoint
        given = {
            n: getattr(c, "best", None) for n, c in self._callbacks.items() if isinstance(c, kind)
        }
        restoring.restore(self._given, saved["nodes"], load)
        for name, state in saved["states"].items():
            if name in self._stateful:
                self._stateful[name].set_state(decode(state, load))
        for name, (position, length, stored) in saved["csv"].items():
            self._restore_csv(name, position, length, None if stored is None else load(stored))
        for name, best in given.items():
            if getattr(self._callbacks[name], "best", None) != best:  # else it has saved none yet
                self._look_for_best(name, self._callbacks[name])

    def _compare_names(self, saved: Sequence[str]) -> None:
        for name, callback in self._callbacks.items():
            if name not in saved and vars(callback).keys() - {"_model", "params"}:
                self._given.warn(
                    f"the callback {name_of(name)} was not there when the checkpoint was written."
                )
        for name in saved:
            if name not in self._callbacks:
                self._given.warn(
                    f"the callback {name_of(name)} of the checkpoint is not there any more."
                )

    def _restore_csv(
        self, name: str, position: int | None, length: int, content: Array | None
    ) -> None:
        """Drop the rows written after the checkpoint, or make the file anew on another machine."""
        callback = self._loggers().get(name)
        if callback is None:
            return
        try:
            files.put_back(callback.csv_file, position, length, content)
        except (NotPlainError, OSError) as error:
            self._given.warn(f"{name_of(name)}'s file is not what it was: {error}")
        callback.writer = None  # made anew at the next row, with a header
        if length and callback.keys and not callback.csv_file.closed:
            fields = ["epoch", *callback.keys]
            callback.writer = csv.DictWriter(callback.csv_file, fields, delimiter=callback.sep)

    def _look_for_best(self, name: str, callback: Any) -> None:
        """Report it if the best model of a ModelCheckpoint is not on this machine."""
        best = getattr(callback, "best", None)
        if best is None or not callback.save_best_only or "://" in callback.filepath:
            return
        path = Path(re.sub(r"{[^}]*}", "*", callback.filepath))
        if not any(path.parent.glob(path.name)):
            self._given.warn(
                f"{name_of(name)}: the best model so far ({callback.monitor} {best:g}) is not at "
                f"{callback.filepath} here: its file did not come along. A better epoch writes it."
            )

    def _restore_first_form(self, saved: dict[str, Any], load: LoadArray) -> None:
        """Restore what was written before there were forms: all attributes, by value."""
        self._compare_names([name for name, state in saved.items() if any(state.values())])
        for name, callback in self._callbacks.items():
            state = decode(saved.get(name, {}), load)
            if "state" in state:
                callback.set_state(state["state"])
                continue
            vars(callback).update(state.get("attributes", {}))
            if state.get("monitor_op") in ("less", "greater"):
                callback.monitor_op = getattr(keras.ops, state["monitor_op"])
            if "csv" in state:
                content = np.frombuffer(state["csv"], dtype=np.uint8)
                self._restore_csv(name, len(content), len(content), content)


def _load(tensors: Mapping[str, Array], name: str) -> Array:
    if name not in tensors:
        raise CheckpointError(f"the array {name} of the Python state is missing.")
    return tensors[name].copy()


def _named(callbacks: Sequence[Any]) -> dict[str, Any]:
    """A name for each that does more than draw: its class, and which of that class it is."""
    counts: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.ProgbarLogger):
            kind = type(callback).__qualname__
            counts[kind] += 1
            named[f"{kind}#{counts[kind]}" if counts[kind] > 1 else kind] = callback
    return named


def _given_before(
    place: Place, owner: int, first: Mapping[str, Any], left: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was given, of the fields that are as an interrupted fit left them."""
    if id(place.value) != owner:
        return {}
    now = place.first or {}
    same = [name for name in first if are_same(now.get(name, MISSING), left.get(name, MISSING))]
    return {name: first[name] for name in same if now[name] != first[name]}


def _is_stateful(callback: Any) -> bool:
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")
