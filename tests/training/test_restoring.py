"""Restoring makes nothing that the data name and calls nothing; and a whole fit."""

import base64
import collections
import random
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import BackupAndRestore
from runner.checkpoint.plain import encode
from runner.errors import CheckpointError
from runner.training.state.observers import Observers
from tests.training.observing import (
    Holding,
    Interrupted,
    Process,
    Record,
    Score,
    Unmade,
    resumed,
    state_of,
    stopping,
)


def test_what_is_made_again_is_not_called() -> None:
    unmade: Any = object.__new__(Unmade)
    vars(unmade)["value"] = 3
    found = resumed(lambda: Holding(value=None), lambda c: setattr(c, "value", unmade))
    assert type(found.value) is Unmade
    assert vars(found.value) == {"value": 3}


@pytest.mark.parametrize(
    "name",
    [["subprocess", "Popen"], ["os", "system"], ["builtins", "eval"], ["pathlib", "Path"]],
)
def test_reading_makes_nothing_that_the_data_name(name: list[str]) -> None:
    data, arrays = state_of(Holding(value=None), lambda c: setattr(c, "value", Record(1.0, [])))
    before = set(sys.modules)
    nodes = data["callbacks"]["nodes"]
    made = next(node for node in nodes.values() if node.get("class", [""])[-1] == "Record")
    made["class"] = name
    callback = Holding(value=None)
    process = Process(callback).resume((data, arrays))
    assert callback.value is None
    assert any("Holding.value is not restored" in text for text in process.said)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "list", "content": {}},
        {"kind": "none"},
        {"kind": "object", "fields": {"a": {"!no": 1}}},
        3,
    ],
)
def test_foreign_data_is_a_checkpoint_error(wrong: Any) -> None:
    data, arrays = state_of(Holding(a=1), lambda c: setattr(c, "a", 2))
    data["callbacks"]["nodes"]["Holding"] = wrong
    with pytest.raises(CheckpointError):
        Process(Holding(a=1)).resume((data, arrays))


def test_a_state_of_the_first_form_is_restored(tmp_path: Path) -> None:
    """As runner wrote it before objects had places."""
    rows = base64.b64encode(b"epoch,loss\n0,0.5\n").decode()
    log = {"keys": ["loss"], "sep": ",", "filename": str(tmp_path / "log.csv")}
    data = {
        "callbacks": [
            ["EarlyStopping", {"attributes": {"wait": 2, "min_delta": -0.5}, "monitor_op": "less"}],
            ["CSVLogger", {"attributes": log, "csv": {"!bytes": rows}}],
            ["Gone", {"attributes": {"a": 1}}],
        ],
        "random": encode(random.getstate(), lambda path, _: path),
        "numpy": encode(np.random.get_state(), lambda path, _: path, "numpy"),
    }
    monitor, logger = stopping(), keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    process = Process(monitor, logger, begin=logger.on_train_begin)
    process.resume((data, {"numpy/1": np.random.get_state(legacy=False)["state"]["key"]}))
    assert (monitor.wait, monitor.min_delta, monitor.monitor_op) == (2, -0.5, keras.ops.less)
    logger.on_epoch_end(1, {"loss": 0.25})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,0.5\n1,0.25\n"
    assert process.said == ["the callback Gone of the checkpoint is not there any more."]


class Restless(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the rate by all that it remembers."""

    def __init__(self, shared: Any, generator: Any) -> None:
        super().__init__()
        self.shared = shared
        self.generator = generator
        self.last: Any = collections.deque(maxlen=2)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.shared[batch].append(Score(batch, float(logs["loss"])))
        self.last.append(self.generator.random())
        count = sum(map(len, self.shared.values()))
        self.model.optimizer.learning_rate = sum(self.last) / (10 + count)


def fit(folder: Path, seed: int, after: int) -> Any:
    keras.utils.set_random_seed(1)
    shared: Any = collections.defaultdict(list)
    losses: list[float] = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((12, 2)).astype("float32")
    callbacks = [
        Restless(shared, np.random.default_rng(seed)),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: losses.append(logs["loss"])),
        Interrupted(after),
        BackupAndRestore(str(folder), save_freq=1),
    ]
    model.fit(x, x[:, :1], batch_size=4, epochs=4, verbose=0, callbacks=callbacks, shuffle=False)
    return shared, losses, [weight.tobytes() for weight in model.get_weights()]


def test_a_training_that_its_callbacks_steer_is_the_same_after_interruptions(
    tmp_path: Path,
) -> None:
    whole = fit(tmp_path / "whole", 1, 0)
    for seed, after in ((1, 2), (2, 4), (3, 3)):
        with pytest.raises(RuntimeError):
            fit(tmp_path / "again", seed, after)
    again = fit(tmp_path / "again", 4, 0)
    assert again == whole
    assert type(again[0]) is collections.defaultdict


def test_the_callbacks_of_a_job_need_no_word() -> None:
    """Classes of this package are machines to it, but for the callbacks that a spec asks for."""
    from runner.training.trainer import _stop_at_nan

    said: list[str] = []
    observers = Observers([_stop_at_nan("")], warn=said.append)
    observers.begin()
    observers.capture()
    assert said == []
