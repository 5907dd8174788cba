"""A fit that an exception left leaves Keras, the model and the next fit as they were."""

import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner.training.state.observers import Observers
from tests.training.leaving import (
    FIT,
    Halves,
    X,
    Y,
    attempt,
    dense,
    eager_draws,
    fitted,
    interrupted,
    kept,
    result,
    stopped,
    traced_draws,
)
from tests.training.test_dropin import Interrupting


class StopsBetween(Interrupting):
    """Raises while steps are hidden: the first hook that a resumed epoch calls."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, self._stop)

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin", "on_epoch_end"])
def test_a_fit_left_by_an_exception_leaves_keras_as_it_was(tmp_path: Path, hook: str) -> None:
    stopped(tmp_path)
    model = dense(keras.layers.Dropout(0.2))
    model.make_train_function()
    real = model.train_function
    cells = [cell.cell_contents for cell in real.__closure__]
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, StopsBetween(hook), model=model)
    assert model.train_function is real
    assert [cell.cell_contents for cell in real.__closure__] == cells
    assert not model._initial_epoch
    before = model.get_weights()
    history = model.fit(X, Y, batch_size=6, **FIT)
    assert history.epoch == [0, 1, 2]
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("times", [1, 2])
def test_the_same_objects_after_an_interrupted_epoch_end(tmp_path: Path, times: int) -> None:
    """A cell is run again: what the interrupted fit made of its objects, nobody gave them."""
    whole, history = fitted(tmp_path / "whole", Halves())
    keras.utils.set_random_seed(1)
    halves, model, left = Halves(), dense(keras.layers.Dropout(0.2)), [times]

    def stop(*_: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise KeyboardInterrupt

    stops = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    for _ in range(times):
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "cell", halves, stops, model=model)
    again, resumed = fitted(tmp_path / "cell", halves, stops, model=model)
    assert halves.ends == 3
    assert result(resumed, again) == result(history, whole)


def test_a_second_interruption_while_the_first_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    model = dense(keras.layers.Dropout(0.2))
    model.make_train_function()
    real = model.train_function
    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(Observers, "leave", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path, Interrupting(6), model=model)
    assert model.train_function is real
    assert not model._initial_epoch
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name == "checkpoint"]


def test_a_rate_that_a_user_sets_after_an_interrupted_fit_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = dense(keras.layers.Dropout(0.2))
    with pytest.raises(RuntimeError, match="interrupted at a step"):
        fitted(tmp_path, Interrupting(6), model=model)
    model.optimizer.learning_rate = 0.5
    fitted(tmp_path, Interrupting(), model=model)
    assert float(model.optimizer.learning_rate) == 0.5
    assert "optimizer.learning_rate 0.05 -> 0.5" in caplog.text


@pytest.mark.parametrize("stop", [0, 3])
def test_nothing_writes_any_more_when_a_fit_is_over(tmp_path: Path, stop: int) -> None:
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError) if stop else nullcontext():
        attempt(eager_draws, 0, [kept(tmp_path / "run"), Interrupting(stop)])
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name == "checkpoint"]
    shutil.rmtree(tmp_path / "run")


def test_a_library_may_put_its_own_fit_around_that_of_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = keras.Model.fit

    def fit(self: Any, *args: Any, **named: Any) -> Any:
        return original(self, *args, **named)

    expected = interrupted(traced_draws, tmp_path / "one", 2)
    monkeypatch.setattr(keras.Model, "fit", fit)
    assert interrupted(traced_draws, tmp_path / "two", 2) == expected


def test_a_fit_that_stops_while_steps_are_hidden_leaves_a_model_that_trains(tmp_path: Path) -> None:
    """Stopped between two hooks, where nothing of ours is told: the model looks who calls it."""
    stopped(tmp_path)
    whole, _ = fitted(tmp_path / "whole")
    model = dense(keras.layers.Dropout(0.2))
    hidden: list[Any] = []

    class Peeks(Interrupting):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            pass

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            hidden.append(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, Peeks(), model=model)
    assert hidden == [3]
    again, _ = fitted(tmp_path, model=model)
    for one, other in zip(again.variables, whole.variables, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
