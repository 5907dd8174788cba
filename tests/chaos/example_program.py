"""Runs one of the examples in a forked process: bare, or with the callback and perhaps a kill.

A moment is (fit, epoch, part of the epoch, place in it): moments of a training compare, in
whatever process they come. The undisturbed run writes down which ones there are.
"""

import hashlib
import importlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.training import program
from tests.training.program import sha

Moment = list[int]
BEGIN, STEP, VALIDATION, END = range(4)
LIMIT_SECONDS = 240  #: of one attempt


def watcher(keras: Any, fit: int, moments: list[Moment]) -> Any:
    kill = program.KILL

    class Watcher(keras.callbacks.Callback):  # type: ignore[misc]
        """Notes all moments, and kills the process at the first one that is late enough."""

        def __init__(self) -> None:
            super().__init__()
            self.epoch = 0

        def get_state(self) -> dict[str, Any]:
            return {}

        def set_state(self, state: dict[str, Any]) -> None:
            pass

        def _moment(self, part: int, place: int) -> None:
            moments.append([fit, self.epoch, part, place])
            if kill and moments[-1] >= kill["at"]:
                time.sleep(kill["rest"])  # for a checkpoint that is being written
                program.die()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch
            self._moment(BEGIN, 0)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._moment(STEP, 2 * batch)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._moment(STEP, 2 * batch + 1)

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._moment(VALIDATION, batch)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self._moment(END, 0)

    return Watcher()


class Backups:
    """The callbacks for each fit of a program: every fit has a folder of its own."""

    def __init__(self, keras: Any) -> None:
        self.keras = keras
        self.moments: list[Moment] = []
        self.fits = 0

    def __call__(self, name: str = "fit") -> list[Any]:
        from runner import BackupAndRestore

        self.fits += 1
        watching = watcher(self.keras, self.fits, self.moments)
        if program.OPTIONS.get("plain"):
            return [watching]
        folder = f"backup of {name}"
        return [BackupAndRestore(folder, save_freq=1, delete_checkpoint=False), watching]


def outcome(keras: Any, name: str, value: Any) -> dict[str, Any]:
    """What is compared of one thing that an example returns."""
    if isinstance(value, keras.Model):
        optimizer = getattr(value, "optimizer", None)
        variables = [*value.variables, *value.metrics_variables]
        variables += optimizer.variables if optimizer is not None else []
        return hashes(name, variables)
    if isinstance(value, keras.optimizers.Optimizer | keras.metrics.Metric):
        return hashes(name, value.variables)
    if isinstance(value, keras.callbacks.History):
        logs = {f"{name}/{key}": [float(v).hex() for v in vs] for key, vs in value.history.items()}
        return {**logs, f"{name}/epochs": value.epoch}
    text = json.dumps(value, default=lambda one: sha(one) if hasattr(one, "dtype") else str(one))
    return {name: text if len(text) < 200 else hashlib.sha256(text.encode()).hexdigest()}


def hashes(name: str, variables: Any) -> dict[str, Any]:
    found = {}
    for number, variable in enumerate(variables):
        array = np.asarray(variable)
        kind = f"{variable.name} {array.dtype}{list(array.shape)}"
        found[f"{name}/{number:03d} {kind}"] = sha(array)
    return found


def main() -> None:
    import keras

    signal.alarm(LIMIT_SECONDS)
    os.chdir(program.FOLDER)
    program.prepare(keras)
    backups = Backups(keras)
    example = importlib.import_module(f"tests.chaos.examples.{program.OPTIONS['example']}")
    found: dict[str, Any] = {}
    for name, value in example.train(backups).items():
        found |= outcome(keras, name, value)
    Path("result.json").write_text(json.dumps(found))
    Path("moments.json").write_text(json.dumps(backups.moments))


if __name__ == "__main__":
    program.serve(main)
