"""What a training consisted of, step by step, for `runner drill -- PROGRAM`.

`RUNNER_DRILL` names a folder of the drill's. While it is set, `BackupAndRestore` saves in there
instead of its own place, after each step, and writes one line of hashes for each step: the
batches that were read, every variable, and what callbacks, layers and model hold beside them.
The training itself is the same as without. The folder also holds when this process is to end.
"""

import functools
import json
import logging
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from blake3 import blake3

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.manifest import Position
from runner.checkpoint.reading import Restored
from runner.training import private
from runner.training.digest import attributes, digest, is_own, of_array
from runner.training.folder import Folder
from runner.training.frames import Fit
from runner.training.orders import VARIABLE, Orders, trace_file
from runner.training.state.attributes import plain

logger = logging.getLogger(__name__)

#: attributes of callbacks that are the running fit's, handles, or clocks of Keras's TensorBoard
_NO_STATE = {"_model", "params", "validation_data", "csv_file", "writer", "_writers"}
_NO_STATE |= {"_batch_start_time", "_epoch_start_time"}


class Recorder:
    """Writes down all trainings of this process, and ends it when the drill has ordered that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._orders = Orders.read(folder)
        self._file = trace_file(folder, self._orders.attempt).open("ab", buffering=0)
        self._fit = 0
        self._fits: dict[str, int] = {}  #: numbers of the trainings, by their places
        self._place = Path()  #: of its checkpoints
        self._ahead: list[str] | None = None  #: batches that were read, and taken by no step yet
        self._taken: list[str] = []  #: by the steps since the last line
        self._step = 0
        self._copied: set[Path] = set()
        self._killer: threading.Timer | None = None

    @classmethod
    def ordered(cls) -> "Recorder | None":
        """Return this process's, under a drill; else None."""
        folder = os.environ.get(VARIABLE)
        return _recorder(folder) if folder else None

    def open(
        self, backup_dir: str, *, ended: int, lasting: bool
    ) -> tuple[Checkpointer, Restored | None]:
        """Open what stands for the place of the fit that begins now.

        A fit after one that was stopped by an exception continues that one's training. What a
        fit would delete at its end begins anew in the next; what would last is found again.

        Args:
            backup_dir: the program's place.
            ended: how many fits with that place have come to their end.
            lasting: it is not deleted then.
        """
        place = blake3(backup_dir.encode()).hexdigest(8)
        name = f"{place}-{ended}"
        self._fit = self._fits.setdefault(name, len(self._fits) + 1)
        self._place = Path("backups") / (place if lasting else name)
        opened = Folder(str(self._folder / self._place)).open()
        self._checkpointer = opened[0]
        return opened

    def begin(self, model: Any, fit: Fit, callbacks: Sequence[Any]) -> None:
        """Follow this fit from now on."""
        self._model, self._callbacks = model, callbacks
        self._ahead, self._taken = None, []
        iterator = fit.epoch_iterator
        original = iterator._get_iterator
        iterator._get_iterator = lambda: self._seen(original())

    def record(
        self, position: Position, variables: Sequence[tuple[str, Any]], *, restored: bool = False
    ) -> None:
        """Write where the training stands, and do what is ordered for this moment.

        Args:
            position: of the training.
            variables: their names and values.
            restored: this is what a checkpoint brought back.
        """
        step, moment = position.global_step, position.moment
        if self._ahead and not restored:
            self._taken += self._ahead[: step - self._step]
            del self._ahead[: step - self._step]
        every, before, self._step = self._orders.every, self._step, step
        if restored or moment != "batch" or step // every > before // every:
            self._write(
                {
                    "fit": self._fit,
                    "step": step,
                    "epoch": position.epoch,
                    "moment": moment,
                    "at": time.monotonic(),
                    "restored": restored,
                    "batches": None if self._ahead is None else self._taken,
                    "variables": {name: of_array(tensor) for name, tensor in variables},
                    "python": python_state(self._model, self._callbacks),
                }
            )
            self._taken = []
        if not restored and moment != "start":
            self._obey(position)

    def warn(self, text: str) -> None:
        """Pass a warning on; where something differs, it may be the reason."""
        self._write({"warned": text})
        logger.warning(text)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")

    # ------------------------------------------------------------------ batches

    def _seen(self, batches: Any) -> Any:
        """Return the same batches, each noted when it is read: TensorFlow reads ahead."""
        tensorflow = sys.modules.get("tensorflow")
        is_pipeline = tensorflow is not None and isinstance(batches, tensorflow.data.Dataset)
        if not is_pipeline and keras.config.backend() == "tensorflow":
            return batches  # spread over several devices
        self._ahead = []
        if is_pipeline:
            note = functools.partial(self._noted, tensorflow, batches.element_spec)
            return batches.map(note)
        return self._noting(batches)  # an iterator, or what has one, such as grain's data

    def _noted(self, tensorflow: Any, spec: Any, *batch: Any) -> Any:
        parts = tensorflow.nest.flatten(batch, expand_composites=True)
        tensorflow.py_function(self._note, parts, [])  # the batch itself passes by
        return batch if type(spec) is tuple else batch[0]

    def _noting(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            self._note(*keras.tree.flatten(batch))
            yield batch

    def _note(self, *parts: Any) -> None:
        hashes = [digest(None if part is None else np.asarray(part)) for part in parts]
        if self._ahead is not None:
            self._ahead.append(digest(hashes))

    # ------------------------------------------------------------------ orders

    def _obey(self, position: Position) -> None:
        orders, step = self._orders, position.global_step
        if orders.start:
            self._copy_first_checkpoint(Path(orders.start))
        if orders.kill and not self._killer:
            self._prepare_to_die(*orders.kill, step=step)
        epochs = position.epoch if position.moment == "epoch" else 0
        over = _is_over(step, orders.steps) or _is_over(epochs, orders.epochs)
        if self._killer and (over or position.moment == "final"):
            self._killer.join()  # else it would come too late
        if over:
            sys.stdout.flush()
            os._exit(0)

    def _copy_first_checkpoint(self, folder: Path) -> None:
        if self._place not in self._copied:
            self._copied.add(self._place)  # before the first step ends, nothing else is saved
            shutil.copytree(self._folder / self._place, folder / self._place)

    def _prepare_to_die(self, fit: int, last: int, seconds: float, *, step: int) -> None:
        """Begin to count the seconds to the kill when the last step is reached."""
        if self._orders.attempt % 2 and (self._fit, step + 1) >= (fit, last):
            self._checkpointer.wait()  # quick steps would go back to the first
        if (self._fit, step) >= (fit, last):
            self._killer = threading.Timer(seconds, self._die)
            self._killer.start()

    def _die(self) -> None:
        self._write({"killed": True})
        os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def _recorder(folder: str) -> Recorder:
    return Recorder(Path(folder))


def _is_over(done: int, most: int | None) -> bool:
    return most is not None and done >= most


# ---------------------------------------------------------------------- Python


def python_state(model: Any, callbacks: Sequence[Any]) -> dict[str, str]:
    """Return hashes of all that is no variable of the training, by names for people."""
    layers, optimizer = private.all_layers(model), getattr(model, "optimizer", None)
    variables = (*model.variables, *model.metrics_variables)
    known = {id(each) for each in (*layers, optimizer, *variables)}
    found: dict[str, Any] = {"random": random.getstate(), "numpy.random": np.random.get_state()}
    losses = keras.tree.flatten(getattr(model, "loss", None))
    seen: Counter[str] = Counter()
    for owner in (*layers, optimizer, *losses, *model.metrics, *callbacks):
        kind = "model" if owner is model else _kind(owner)
        seen[kind] += 1
        name = f"{kind}#{seen[kind]}" if seen[kind] > 1 else kind
        held = _of_callback(owner) if kind.startswith("callback ") else _of_part(owner, known)
        found |= {f"{name}{key}": value for key, value in held.items()}
    return {name: digest(value, known) for name, value in found.items()}


_WORDS = (
    (keras.callbacks.Callback, "callback"),
    (keras.layers.Layer, "layer"),
    (keras.optimizers.Optimizer, "optimizer"),
    (keras.metrics.Metric, "metric"),
    (object, "loss"),
)


def _kind(owner: Any) -> str:
    word = next(word for kind, word in _WORDS if isinstance(owner, kind))
    return f"{word} {owner.name if word == 'layer' else type(owner).__name__}"


def _of_callback(owner: Any) -> dict[str, Any]:
    """Return what a callback holds, by attribute."""
    if isinstance(owner, keras.callbacks.ProgbarLogger):  # only draws
        return {}
    if hasattr(owner, "get_state") and hasattr(owner, "set_state"):
        return {"": owner.get_state()}  # it gives its state itself
    return {f".{key}": value for key, value in vars(owner).copy().items() if key not in _NO_STATE}


def _of_part(owner: Any, known: Collection[int]) -> dict[str, Any]:
    """Return what a layer, metric, loss or optimizer holds that may be state, by attribute."""
    held = {f".{key.lstrip('_')}": value for key, value in plain(owner).items()}
    if is_own(owner):
        return held | {f".{key}": value for key, value in attributes(owner).items()}
    if isinstance(owner, keras.layers.Layer):  # such as a stateful LSTM
        found = {f".{key}": _unknown(value, known) for key, value in vars(owner).items()}
        held |= {key: variables for key, variables in found.items() if variables}
    return held


def _unknown(value: Any, known: Collection[int]) -> list[Any]:
    """Return the variables in an attribute that are not the training's anyway."""
    parts = value if isinstance(value, list | tuple) else [value]
    return [one for one in parts if isinstance(one, keras.Variable) and id(one) not in known]
