"""The shorter way to a step's graph: the same graph, the same bits, and nothing of it stays."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner import BackupAndRestore, Batches
from runner.training.shortcuts import Direct, Shortcuts, shortcut
from tests.harness import few

EPOCHS = 3


def called_by(function: Any) -> Any:
    """What a train or test function of Keras's calls: the traced one."""
    place = function.__code__.co_freevars.index("multi_step_on_iterator")
    return function.__closure__[place].cell_contents


class Look(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}

    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name in ("train_function", "test_function"):
            self.found[name] = called_by(getattr(self.model, name))


def fitted(folder: Path, **compile_arguments: Any) -> tuple[Any, Look, str, dict[str, Any]]:
    """A model after a fit whose last batches are smaller, with a validation."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"], **compile_arguments)
    x = np.random.default_rng(1).normal(size=(50, 4)).astype("float32")
    look = Look()
    backup = BackupAndRestore(str(folder), save_freq=3, delete_checkpoint=False)
    history = model.fit(
        Batches(x, x[:, :2], batch_size=16, seed=1),
        validation_data=(x[:20], x[:20, :2]),
        epochs=EPOCHS,
        callbacks=[look, backup],
        verbose=0,
    )
    assert backup.final is not None
    return model, look, backup.final.digest, history.history


@pytest.mark.parametrize("together", few([1, 3], 1))
def test_a_fit_is_the_same_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    *_, digest, history = fitted(tmp_path / "with", steps_per_execution=together)
    monkeypatch.setattr(Shortcuts, "take", lambda self, function: None)
    _, look, *plain = fitted(tmp_path / "without", steps_per_execution=together)
    assert [digest, history] == plain
    assert not any(isinstance(one, Direct) for one in look.found.values())


def test_all_steps_of_all_epochs_share_one_graph(tmp_path: Path) -> None:
    _, look, *_ = fitted(tmp_path)
    for name, direct in look.found.items():
        assert isinstance(direct, Direct), name
        assert direct.experimental_get_tracing_count() == 1, name
        assert direct._graph is not None, name


def test_nothing_stays_after_the_fit(tmp_path: Path) -> None:
    model, *_ = fitted(tmp_path)
    for function in (model.train_function, model.test_function):
        assert isinstance(called_by(function), tf.types.experimental.PolymorphicFunction)


def test_a_new_step_in_the_middle_is_taken(tmp_path: Path) -> None:
    """As when a callback freezes layers: the new step is the one that runs, shortened again."""
    look = Look()
    kernels: list[Any] = []

    class Freezing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            kernels.append(model.layers[0].get_weights()[0].tolist())
            if epoch == 1:
                model.layers[0].trainable = False
                model.make_train_function(force=True)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((8, 2), "float32")
    model.fit(
        Batches(x, x[:, :1], batch_size=2, seed=1),
        validation_data=(x, x[:, :1]),
        epochs=3,
        callbacks=[Freezing(), look, BackupAndRestore(str(tmp_path))],
        verbose=0,
    )
    assert kernels[0] != kernels[1] == kernels[2]
    assert look.found["train_function"]._graph is not None


def test_a_step_that_is_not_of_keras_is_left(tmp_path: Path) -> None:
    """What it calls, and how, is its own affair."""

    class Own(keras.Sequential):  # type: ignore[misc]
        def make_train_function(self, force: bool = False) -> None:
            traced = tf.function(lambda x, y, *, rate: self.loss_of(x, y) * rate)

            def function(iterator: Any) -> Any:
                return {"loss": traced(*next(iterator), rate=2.0)}

            self.train_function = function

        def loss_of(self, x: Any, y: Any) -> Any:
            return tf.reduce_sum(self(x) - y)

    model = Own([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((8, 2), "float32")
    backup = BackupAndRestore(str(tmp_path))
    history = model.fit(Batches(x, x[:, :1], batch_size=2, seed=1), callbacks=[backup], verbose=0)
    assert np.isfinite(history.history["loss"][0])


def iterator(size: int) -> Any:
    return iter(tf.data.Dataset.from_tensors(tf.range(size)).repeat())


def test_what_is_unlike_the_call_before_is_looked_up() -> None:
    """Another kind of data, tensors instead of an iterator, functions run eagerly."""
    traced: list[Any] = []

    def total(data: Any) -> Any:
        traced.append(data)
        return tf.reduce_sum(data.get_next() if hasattr(data, "get_next") else data)

    direct = shortcut(tf.function(total))
    assert direct is not None
    calls = [iterator(3), iterator(3), iterator(3), iterator(4), iterator(4), iterator(3)]
    assert [int(direct(one)) for one in calls] == [3, 3, 3, 6, 6, 3]
    assert len(traced) == 2
    assert int(direct(tf.constant([1, 2]))) == 3
    tf.config.run_functions_eagerly(True)
    try:
        seen = len(traced)
        assert int(direct(iterator(3))) == 3
        assert len(traced) == seen + 1
    finally:
        tf.config.run_functions_eagerly(False)


def test_what_is_not_traced_is_left() -> None:
    assert shortcut(len) is None
    assert shortcut(shortcut(tf.function(len))) is None
