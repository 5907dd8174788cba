"""What stands in none of Keras's lists of variables is saved, and nothing is lost in silence.

Each program is trained undisturbed, then interrupted twice; each attempt builds all of it anew and
draws from Python's and NumPy's generators first, as another process would have.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner.checkpoint.reading import read_checkpoint
from runner.training.state.kinds import Kind, kind_of
from tests.harness import few
from tests.training.leaving import (
    FIT,
    PROGRAMS,
    Gan,
    Result,
    attempt,
    batches,
    compiled_again,
    dense,
    interrupted,
    kept,
    result,
)


@pytest.mark.parametrize("program", few(PROGRAMS, 4))
def test_a_resumed_training_is_the_undisturbed_one(
    tmp_path: Path, program: Callable[[list[Any]], Result]
) -> None:
    bare = attempt(program, 0, [])
    whole = attempt(program, 0, [kept(tmp_path / "whole")])
    assert whole == bare
    assert interrupted(program, tmp_path / "killed", 2, 4) == whole


def test_all_that_keras_saves_and_all_that_a_step_works_with_is_in_the_checkpoint(
    tmp_path: Path,
) -> None:
    """The referee is Keras's own file of weights, and the traced step."""
    models: list[Any] = []

    class Watched(Gan):
        def __init__(self) -> None:
            super().__init__()
            models.append(self)

    keras.utils.set_random_seed(1)
    model = Watched()
    model.compile([keras.optimizers.Adam(0.01), keras.optimizers.Lion(0.01)])
    backup = kept(tmp_path / "backup")
    model.fit(batches(), callbacks=[backup], **FIT)
    assert backup.final is not None
    saved = read_checkpoint(backup._folder._store, backup.final).tensors.values()
    held = {array.tobytes() for array in saved}
    model.built = True  # of its parts, all are
    model.save_weights(tmp_path / "model.weights.h5")
    for array in _arrays_of(tmp_path / "model.weights.h5"):
        assert array.tobytes() in held
    step = next(
        cell.cell_contents
        for cell in model.train_function.__closure__
        if hasattr(cell.cell_contents, "_list_all_concrete_functions")
    )
    (traced,) = step._list_all_concrete_functions()
    assert len(traced.graph.variables) >= 14
    for variable in traced.graph.variables:
        assert variable.numpy().tobytes() in held, variable.name


def _arrays_of(path: Path) -> list[Any]:
    import h5py

    found: list[Any] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, part: found.append(np.array(part)) if isinstance(part, h5py.Dataset) else None
        )
    assert len(found) > 10
    return found


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("save_freq", [1, "epoch"])
def test_what_comes_in_mid_training_is_named(
    epoch: int, save_freq: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However soon the training ends: a kill may come before any look that takes its time."""

    class Late(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (self.epoch, batch) == (epoch, 1):
                self.mean = keras.Variable(1.0)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

    dense().fit(batches(), callbacks=[Late(), kept(tmp_path, save_freq=save_freq)], **FIT)
    assert "Late.mean was made in mid-training" in caplog.text


class Plots(keras.callbacks.Callback):  # type: ignore[misc]
    """Draws while it trains, as notebooks do."""

    def on_train_begin(self, logs: Any = None) -> None:
        from matplotlib.figure import Figure

        self.losses: list[float] = []
        self.figure = Figure()
        self.axes = self.figure.subplots()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])
        self.axes.clear()
        self.axes.plot(self.losses)
        self.figure.savefig(io.BytesIO())


def test_drawings_are_drawn_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def program(callbacks: list[Any]) -> Result:
        model, plots = dense(), Plots()
        history = model.fit(batches(), callbacks=[plots, *callbacks], **FIT)
        return result(history, model, losses=plots.losses)

    whole = attempt(program, 0, [kept(tmp_path / "whole")])
    assert interrupted(program, tmp_path / "killed", 2, 6) == whole
    assert "is not saved" not in caplog.text


def test_a_table_of_pandas_is_not_reached_into() -> None:
    """Half of it put back is none: its attributes are found by code that reads its attributes."""
    table = type("DataFrame", (), {"__module__": "pandas.core.frame"})
    assert kind_of(table()) is Kind.OPAQUE


def test_a_list_on_an_object_of_keras_that_changes_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Gathers(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.gathered.append(batch)

    model = dense()
    model.gathered = []
    model.fit(batches(), callbacks=[Gathers(), kept(tmp_path)], **FIT)
    assert "model.gathered has changed in mid-training" in caplog.text


class Stops(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops the training in the middle of its first epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == 2:
            self.model.stop_training = True


class DiesAtTheEnd(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        raise RuntimeError("interrupted at an epoch's end")


def stopped_in_an_epoch(callbacks: list[Any]) -> Result:
    model = dense()
    return result(model.fit(batches(), callbacks=[Stops(), *callbacks], **FIT), model)


def test_a_training_that_was_stopped_in_an_epoch_stays_stopped(tmp_path: Path) -> None:
    """Its last state is after that step, and the kill comes before the epoch has ended."""
    whole = attempt(stopped_in_an_epoch, 0, [])
    with pytest.raises(RuntimeError, match="an epoch's end"):
        attempt(stopped_in_an_epoch, 1, [DiesAtTheEnd(), kept(tmp_path, save_freq=2)])
    assert attempt(stopped_in_an_epoch, 2, [kept(tmp_path)]) == whole


class Momentum(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Lists what it makes in build, as optimizers of one's own do."""

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            self.slots = [self.add_variable_from_reference(v, "slot") for v in variables]

    def update_step(self, gradient: Any, variable: Any, rate: Any) -> None:
        slot = self.slots[self._get_variable_index(variable)]
        slot.assign(0.9 * slot + gradient)
        variable.assign(variable - rate * slot)


def own_optimizer(callbacks: list[Any]) -> Result:
    model = dense()
    model.compile(Momentum(0.01), "mse")
    history = model.fit(batches(), callbacks=callbacks, **FIT)
    slots = {str(i): slot for i, slot in enumerate(model.optimizer.slots)}
    return result(history, model, **slots)


def test_nothing_is_said_of_lists_of_variables_that_each_process_makes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = attempt(own_optimizer, 0, [])
    assert interrupted(own_optimizer, tmp_path, 2, 4) == whole
    assert not [r for r in caplog.records if "slots" in r.message or "#1" in r.message]


def test_an_exchanged_optimizer_is_named_and_nothing_later_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = kept(tmp_path, save_freq="epoch")
    attempt(compiled_again, 0, [backup])
    assert "has exchanged the optimizer" in caplog.text
    assert "a resume goes back to step 4 " in caplog.text
    assert backup.final is None
    caplog.clear()
    attempt(compiled_again, 1, [kept(tmp_path, save_freq="epoch")])
    assert "a resume goes back to step 4 " in caplog.text
    assert "whose kind can't be saved" not in caplog.text
