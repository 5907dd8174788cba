"""Configuration is the program's, state is the checkpoint's."""

import datetime as dt
import random
import time
from pathlib import Path
from typing import Any

import keras

from tests.training.observing import Holding, Meter, Process, state_of, stopping


def test_what_was_given_is_the_programs_and_what_changed_is_the_checkpoints() -> None:
    def make(**values: Any) -> Any:
        given = {"patience": 2, "wait": 0, "rates": [0.1], "rows": [], "meter": Meter()}
        return Holding(**(given | values))

    def change(callback: Any) -> None:
        callback.wait = 1
        callback.rows.append(1)
        callback.meter.total = 0.5

    state = state_of(make(), change)
    callback = make(patience=9, wait=7, rates=[0.3], rows=[5])
    process = Process(callback).resume(state)
    assert (callback.patience, callback.wait, callback.rates, callback.rows) == (9, 1, [0.3], [1])
    assert callback.meter.total == 0.5
    assert process.said == [
        "Holding.patience is 9 now, was 2: the program's is taken.",
        "Holding.rates is [0.3] now, was [0.1]: the program's is taken.",
    ]
    process.resume(state)
    assert len(process.said) == 2


def test_a_value_that_changed_and_changed_back_is_the_checkpoints() -> None:
    """Also two processes later."""
    callback = Holding(phase=1, rows=[1])
    process = Process(callback)
    callback.phase = 2
    callback.rows.append(2)
    process.capture()
    callback.phase = 1
    callback.rows.pop()
    state = process.capture()
    for given in (1, 4):
        callback = Holding(phase=given, rows=[given])
        process = Process(callback).resume(state)
        assert (callback.phase, callback.rows, process.said) == (1, [1], [])
        state = process.capture()


def test_the_beginning_of_the_training_does_not_change_what_was_given() -> None:
    """What on_train_begin makes of it in this process was undone in the other one."""
    state = state_of(Holding(count=5, rows=[1]), lambda _: None)
    callback = Holding(count=5, rows=[1])

    def begin() -> None:
        callback.count = 0
        callback.rows.clear()

    Process(callback, begin=begin).resume(state)
    assert (callback.count, callback.rows) == (5, [1])


def test_a_monitor_keeps_its_state_and_takes_new_arguments() -> None:
    """Keras flips the sign of min_delta at the first epoch's end."""
    callback = stopping(patience=3, min_delta=0.5)
    process = Process(callback, begin=callback.on_train_begin)
    for epoch, loss in enumerate([1.0, 0.9, 0.8]):
        callback.on_epoch_end(epoch, {"loss": loss})
    state = process.capture()
    whole = {k: v for k, v in vars(callback).items() if k not in ("_model", "params")}
    assert (whole["wait"], whole["best"], whole["min_delta"]) == (2, 1.0, -0.5)
    callback = stopping(patience=3, min_delta=0.5)
    assert Process(callback, begin=callback.on_train_begin).resume(state).said == []
    assert {k: v for k, v in vars(callback).items() if k not in ("_model", "params")} == whole
    callback = stopping(patience=8, min_delta=0.25)
    process = Process(callback, begin=callback.on_train_begin).resume(state)
    assert (callback.patience, callback.min_delta, callback.wait) == (8, -0.25, 2)
    process.resume(state)
    assert callback.min_delta == -0.25
    assert {text.split(":")[0] for text in process.said} == {
        "EarlyStopping.min_delta is 0.25 now, was 0.5",
        "EarlyStopping.patience is 8 now, was 3",
    }
    assert len(process.said) == 2


def test_places_and_times_of_this_process_are_its_own(tmp_path: Path) -> None:
    """Set when the training begins, by a clock or for a folder that is gone."""

    class Timed(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.made_at = time.time()
            self.folder = folder

        def on_train_begin(self, logs: Any = None) -> None:
            self.folder.mkdir()
            self.place = str(self.folder)
            self.began = time.time()
            self.ticks = time.monotonic()
            self.today = dt.datetime.now()
            self.draw = random.random()

    first = Timed(tmp_path / "a")
    process = Process(first, begin=first.on_train_begin)
    state = process.capture()
    assert process.said == []
    (tmp_path / "a").rmdir()
    second = Timed(tmp_path / "b")
    process = Process(second, begin=second.on_train_begin)
    own = dict(vars(second))
    process.resume(state)
    assert ["folder is" in text for text in process.said] == [True]
    assert vars(second) == own | {"draw": first.draw}


def test_a_best_model_that_did_not_come_along_is_said(tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        path = folder / "{epoch}.weights.h5"
        return keras.callbacks.ModelCheckpoint(
            str(path), monitor="loss", save_best_only=True, save_weights_only=True
        )

    state = state_of(make(tmp_path), lambda c: vars(c).update(best=0.5, _current_epoch=3))
    callback = make(tmp_path)
    process = Process(callback).resume(state)
    assert (callback.best, callback._current_epoch) == (0.5, 3)
    (said,) = process.said
    assert "the best model so far (loss 0.5) is not at" in said
    (tmp_path / "2.weights.h5").touch()
    assert Process(make(tmp_path)).resume(state).said == []


def test_a_best_model_that_was_never_saved_is_not_missed(tmp_path: Path) -> None:
    def make() -> Any:
        return keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), save_best_only=True, initial_value_threshold=0.5
        )

    state = state_of(make(), lambda c: vars(c).update(_current_epoch=3))
    assert Process(make()).resume(state).said == []
