"""Where a training stands in its data is found again, or it is said by name that it can't be."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner import BackupAndRestore, Batches
from runner.checkpoint.manifest import Position
from runner.training.data import sources
from runner.training.frames import fit_in_progress
from tests.harness import few
from tests.training.test_dropin import Interrupting

Data = tf.data.Dataset
N = 24
X = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
Y = X.sum(1, keepdims=True)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    keras.utils.set_random_seed(7)
    yield
    keras.utils.clear_session(free_memory=False)  # which would take a second each time


class Within(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls a function with the model and what its fit works with, as our own callback sees it."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def on_train_begin(self, logs: Any = None) -> None:
        self.act(self.model, fit_in_progress(self._list))

    def in_list(self) -> keras.callbacks.CallbackList:
        self._list = keras.callbacks.CallbackList([self], add_history=True)
        return self._list


def seen(act: Any, x: Any, y: Any = None, **options: Any) -> Any:
    """What a function returns within a fit on this data."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    found = []
    within = Within(lambda model, fit: found.append(act(model, fit)))
    callbacks = within.in_list()
    callbacks.set_model(model)
    model.fit(x, y, verbose=0, callbacks=callbacks, **options)
    return found[0]


def said(x: Any, y: Any = None, **options: Any) -> tuple[Any, list[str]]:
    """The source that fit's data have, and what is said of them."""
    warnings: list[str] = []
    source = seen(
        lambda model, fit: sources.source_of(model, fit, warn=warnings.append), x, y, **options
    )
    return source, warnings


# ---------------------------------------------------------------------- arrays


@pytest.mark.slow
def test_arrays_whose_epochs_are_whole_passes_are_sought() -> None:
    for options in (
        {"batch_size": 5},
        {"steps_per_epoch": 4},
        {"batch_size": 8, "steps_per_epoch": 3},
    ):
        source, warnings = said(X, Y, **options)
        assert source.mid_epoch
        assert not warnings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 4, "steps_per_epoch": 3}, "steps_per_epoch=3 an epoch ends within"),
        ({"shuffle": "batch"}, "shuffle='batch' is an order of Keras's own"),
    ],
)
def test_arrays_that_are_left_to_keras_are_named(options: dict[str, Any], reason: str) -> None:
    source, (warning,) = said(X, Y, **options)
    assert not source.mid_epoch
    assert reason in warning
    assert "(arrays)" in warning


# ---------------------------------------------------------------------- PyDatasets


@pytest.mark.parametrize(
    ("make", "options"),
    few(
        [
            (lambda: Pieces(), {}),
            (lambda: Pieces(workers=2), {"shuffle": False}),
            (lambda: Pieces(), {"steps_per_epoch": 2}),
            (lambda: Harder(), {}),
            (lambda: EndlessPieces(), {"steps_per_epoch": 2}),
        ],
        2,
    ),
)
def test_batches_with_numbers_are_sought(make: Any, options: dict[str, Any]) -> None:
    source, warnings = said(make(), **options)
    assert source.mid_epoch
    assert not warnings


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    few(
        [
            (lambda: Noisy(), {}, "is another when it is drawn again"),
            (lambda: Rarely(), {}, "np.random.default_rng([seed, epoch, index])"),
            (lambda: Pieces(), {"steps_per_epoch": 1}, "steps_per_epoch=1 an epoch ends within"),
            (lambda: Harder(workers=2), {}, "do that in on_epoch_end"),
            (lambda: EndlessHarder(), {"steps_per_epoch": 2}, "let their index alone decide"),
        ],
        2,
    ),
)
def test_batches_that_cant_be_had_again_are_named(
    make: Any, options: dict[str, Any], reason: str
) -> None:
    """With the name of their class, and what helps there; the generators are as they were."""
    random_state = str(np.random.get_state())
    data = make()
    own = getattr(data, "generator", np.random.default_rng(1)).bit_generator.state
    source, (warning,) = said(data, **options)
    assert not source.mid_epoch
    assert reason in warning
    assert f"({type(data).__name__})" in warning
    if isinstance(data, Rarely):
        assert data.generator.bit_generator.state != own  # Keras itself has drawn from it
    assert isinstance(data, Noisy) or str(np.random.get_state()) == random_state


def test_another_model_s_own_fit_is_told_of_what_it_takes(tmp_path: Path) -> None:
    """A task of KerasHub refuses Batches."""

    class Task(keras.Sequential):  # type: ignore[misc]
        def fit(self, *args: Any, **options: Any) -> Any:
            return super().fit(*args, **options)

    found: list[str] = []
    for kind in (keras.Sequential, Task):
        model = kind([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        within = Within(lambda model, fit: sources.source_of(model, fit, warn=found.append))
        callbacks = within.in_list()
        callbacks.set_model(model)
        model.fit(((X, Y) for _ in range(3)), verbose=0, callbacks=callbacks)
    assert "Give runner.Batches, or a PyDataset" in found[0]
    assert "Give it arrays, a grain.MapDataset, or a tf.data pipeline" in found[1]


def test_how_much_there_is_tells_nothing_about_the_order() -> None:
    """So that a training can go on with batches of another size."""
    small, large = (said(X, Y, batch_size=size)[0] for size in (5, 8))
    assert (small.examples, small.batch_size) == (N, 5)
    assert (large.examples, large.batch_size) == (N, 8)
    large.from_json(small.to_json(Position()))
    one, other = (list(source._batches.order(3)) for source in (small, large))
    assert one == other
    batches = Batches(X, Y, batch_size=7, seed=1, repeat=2)
    assert said(batches)[0].examples == 2 * N


# ---------------------------------------------------------------------- validation


class Pieces(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return X[index * 4 : index * 4 + 4], Y[index * 4 : index * 4 + 4]


class Noisy(Pieces):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + np.random.normal(), y


class Rarely(Pieces):
    """Draws from a generator of its own, and mostly to no effect."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = np.random.default_rng(1)

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return (-x if self.generator.random() < 1e-9 else x), y


class Harder(Pieces):
    """Changes as an epoch begins."""

    level = 0

    def on_epoch_begin(self) -> None:
        self.level += 1


class EndlessPieces(keras.utils.PyDataset):  # type: ignore[misc]
    num_batches = None

    def __getitem__(self, index: int) -> Any:
        return X[:4], Y[:4]


class EndlessHarder(EndlessPieces):
    def on_epoch_end(self) -> None:
        self.level = 1


def pipeline() -> Any:
    return Data.from_tensor_slices((X, Y))


def checked(data: Any, **options: Any) -> tuple[list[Any], list[str]]:
    warnings: list[str] = []
    read = seen(
        lambda _, fit: sources.check_validation(fit, warn=warnings.append),
        X,
        Y,
        validation_data=data,
        **options,
    )
    return read, warnings


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: (X, Y),
        lambda: (tf.constant(X), tf.constant(Y), np.ones(N)),
        lambda: pipeline().batch(4),
        lambda: pipeline().shuffle(9, seed=3, reshuffle_each_iteration=False).batch(4),
        lambda: Batches(X, Y, batch_size=4, seed=1, shuffle=False),
        lambda: Pieces(),
    ],
)
def test_validation_that_is_the_same_in_each_pass_is_not_talked_of(make: Any) -> None:
    assert checked(make()) == ([], [])


@pytest.mark.parametrize(
    ("make", "name", "options"),
    [
        (lambda: pipeline().shuffle(9).batch(4), "tf.data pipeline", {}),
        (lambda: pipeline().shuffle(9, seed=3).batch(4), "in another order", {}),
        (
            lambda: pipeline().map(lambda x, y: (x + tf.random.normal([3]), y)).batch(4),
            "Random",
            {},
        ),
        (lambda: Noisy(), "Noisy", {}),
        (lambda: itertools.repeat((X, Y)), "generator", {"validation_steps": 2}),
        (lambda: Batches(X, Y, batch_size=4, seed=1), "Batches", {}),
    ],
)
def test_validation_that_may_differ_in_each_pass_is_said_once(
    make: Any, name: str, options: dict[str, Any]
) -> None:
    data = make()
    if name == "generator":
        data = (one for one in data)
    _, (warning,) = checked(data, **options)
    assert "a validation after a resume is not exact" in warning
    assert name in warning
    assert "runner.Batches with shuffle=False" in warning


def test_validation_is_looked_at_in_a_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = pipeline().shuffle(9).batch(4)
    backup = BackupAndRestore(str(tmp_path))
    model.fit(X, Y, epochs=3, validation_data=data, verbose=0, callbacks=[backup])
    assert caplog.text.count("a validation after a resume is not exact") == 1


# ---------------------------------------------------------------------- pipelines


def endless() -> Any:
    return Data.range(1000).map(lambda i: (tf.cast(i, tf.float32) * tf.ones([2, 3]), [[0.0]] * 2))


class Endless:
    """An endless pipeline within a fit; tells at which batch its next iterator begins."""

    def __init__(self, *, steps: int, initial_epoch: int = 0) -> None:
        options = {"steps_per_epoch": steps, "initial_epoch": initial_epoch}
        self.source, self.fit = seen(
            lambda model, fit: (sources.source_of(model, fit, warn=print), fit),
            endless().repeat(),
            epochs=initial_epoch + 1,
            **options,
        )

    def begins_at(self) -> int:
        x, _ = next(iter(self.fit.epoch_iterator._distributed_dataset))
        return int(x[0, 0])


def test_an_endless_pipeline_is_counted_from_the_epoch_that_the_training_began_with() -> None:
    first = Endless(steps=4, initial_epoch=2)
    first.source.seek(2, 0)
    assert first.begins_at() == 0
    first.source.seek(3, 0)
    saved = first.source.to_json(Position())
    for initial_epoch in (0, 2, 3, 5):  # whatever the script makes of its own files
        again = Endless(steps=4, initial_epoch=initial_epoch)
        again.source.from_json(saved)
        again.source.seek(4, 3)
        assert again.begins_at() == 2 * 4 + 3


def test_an_endless_pipeline_is_counted_with_the_steps_that_each_attempt_had() -> None:
    saved = Endless(steps=4).source.to_json(Position())
    for steps, epoch, begins in ((4, 1, 4), (6, 3, 12), (2, 5, 24), (2, 6, 26)):
        again = Endless(steps=steps)
        again.source.from_json(saved)
        again.source.seek(epoch, 0)
        assert again.begins_at() == begins
        saved = again.source.to_json(Position())


def test_only_the_first_seek_moves_what_goes_on_through_all_epochs() -> None:
    one = Endless(steps=4)
    one.source.seek(0, 3)
    assert one.begins_at() == 3
    for epoch in (1, 2):  # an iterator that began now would be a new training's
        one.source.seek(epoch, 0)
        assert one.begins_at() == 0


def test_what_may_end_is_not_called_endless() -> None:
    data = endless().filter(lambda x, _: x[0, 0] < 9)
    source, (warning,) = said(data, steps_per_epoch=4)
    assert not source.mid_epoch
    assert "add .repeat() at its end" in warning
    assert said(data.repeat(), steps_per_epoch=4)[1] == []


@pytest.mark.parametrize(
    ("first", "steps", "now"), few([(1, 5, 2), (1, 2, 1), (1, 9, 3), (0, 2, 5)], 1)
)
def test_a_script_s_own_initial_epoch_moves_no_data(
    tmp_path: Path, first: int, steps: int, now: int
) -> None:
    def train(name: str, initial_epoch: int, *others: Any) -> Any:
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        backup = BackupAndRestore(str(tmp_path / name), save_freq=1, delete_checkpoint=False)
        history = model.fit(
            pipeline().batch(4).repeat(),
            validation_data=pipeline().batch(4).repeat(),
            validation_steps=2,
            steps_per_epoch=4,
            initial_epoch=initial_epoch,
            epochs=5,
            verbose=0,
            callbacks=[*others, backup],
        )
        return history.history, history.epoch, [w.tolist() for w in model.get_weights()]

    expected = train("whole", first)
    with pytest.raises(RuntimeError):
        train("broken", first, Interrupting(steps=steps))
    assert train("broken", now) == expected


# ---------------------------------------------------------------------- variables of pipelines


def curriculum(variable: Any) -> Any:
    return pipeline().map(lambda x, y: (x * variable, y)).batch(4)


@pytest.mark.parametrize("shuffled", [False, True])
def test_variables_that_a_pipeline_reads_are_of_its_source(shuffled: bool) -> None:
    hard = tf.Variable(1.0, name="hard")
    data = curriculum(hard)
    source, warnings = said(data.shuffle(9).cache() if shuffled else data)
    assert [variable is hard for variable in source.variables()] == [True]
    assert bool(warnings) == shuffled
    assert said(X, Y)[0].variables() == []
    assert checked(curriculum(hard))[0][0] is hard


@pytest.mark.parametrize(
    ("late", "options"),
    [("cache()", {}), ("read ahead", {"steps_per_epoch": 3})],
)
def test_a_variable_s_change_that_comes_late_is_said_once(late: str, options: Any) -> None:
    hard = tf.Variable(1.0, name="hard")
    data = curriculum(hard).cache().repeat(None if options else 1)
    source, warnings = said(data, **options)
    source.to_json(Position())
    assert warnings == []  # it has not changed
    hard.assign(2.0)
    source.to_json(Position())
    source.to_json(Position())
    (warning,) = warnings
    assert "hard:0, which has changed" in warning
    assert late in warning
