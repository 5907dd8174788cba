"""What stands in none of Keras's lists of variables is saved, and nothing is lost in silence.

Each program is trained undisturbed, then interrupted twice; each attempt builds all of it anew and
draws from Python's and NumPy's generators first, as another process would have.
"""

import hashlib
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner import BackupAndRestore
from runner.checkpoint.reading import read_checkpoint
from runner.training.state.observers import Observers
from tests.training.test_dropin import Interrupting

Result = dict[str, Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 1)).astype("float32")
FIT: dict[str, Any] = {"epochs": 3, "verbose": 0}
STEPS = 4  # of an epoch


def batches(x: Any = X, y: Any = Y) -> Any:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(6)


def dense(*layers: Any, **options: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), **{"loss": "mse", **options})
    return model


def result(history: Any, *models: Any, **more: Any) -> Result:
    found: Result = {f"history/{k}": [v.hex() for v in vs] for k, vs in history.history.items()}
    arrays = {f"{i}/{j}": v for i, m in enumerate(models) for j, v in enumerate(m.variables)}
    for name, value in {**arrays, **more}.items():
        array = np.asarray(value)
        found[name] = hashlib.sha256(array.tobytes() + str(array.shape).encode()).hexdigest()
    return found


# ---------------------------------------------------------------------- programs


class Gan(keras.Model):  # type: ignore[misc]
    """Builds itself in its first step, and has two optimizers that Keras does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.judge, self.maker = keras.layers.Dense(1), keras.layers.Dense(4)
        self.seeds = keras.random.SeedGenerator(3)
        self.lost = keras.metrics.Mean("lost")

    def compile(self, optimizers: Any, **options: Any) -> None:
        super().compile(**options)
        self.optimizers = optimizers

    def train_step(self, x: Any) -> Any:
        x = x[0]
        noise = keras.random.normal((6, 4), seed=self.seeds)
        for part, optimizer, sign in zip(
            (self.judge, self.maker), self.optimizers, (1.0, -1.0), strict=True
        ):
            with tf.GradientTape() as tape:
                made = self.judge(self.maker(noise))
                loss = sign * tf.reduce_mean(self.judge(x) ** 2 - tf.tanh(made))
            weights = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        self.lost.update_state(loss)
        return {"lost": self.lost.result()}


def gan(callbacks: list[Any], **options: Any) -> Result:
    model = Gan()
    optimizers = [keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01)]
    model.compile(optimizers, **options)
    history = model.fit(batches(), callbacks=callbacks, **FIT)
    slots = {
        f"optimizer {number}/{index}": variable
        for number, optimizer in enumerate(optimizers)
        for index, variable in enumerate(optimizer.variables)
    }
    assert len(slots) == 10
    return result(history, model, **slots)


def eager_gan(callbacks: list[Any]) -> Result:
    return gan(callbacks, run_eagerly=True)


class Average(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.average = keras.models.clone_model(model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for mean, weight in zip(self.average.weights, self.model.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)


def second_model(callbacks: list[Any]) -> Result:
    model = dense(keras.layers.Dropout(0.2))
    average = Average(model)
    history = model.fit(batches(), callbacks=[average, *callbacks], **FIT)
    return result(history, model, average.average)


def stateful_layer(callbacks: list[Any]) -> Result:
    inputs = keras.Input(batch_shape=(6, 2, 2))
    layer = keras.layers.LSTM(3, stateful=True)
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    model.compile("adam", "mse")
    history = model.fit(batches(X.reshape(24, 2, 2)), callbacks=callbacks, **FIT)
    return result(history, model, first=layer.states[0], second=layer.states[1])


class Remembering(keras.losses.Loss):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(1.0)

    def call(self, y: Any, prediction: Any) -> Any:
        self.seen.assign(0.9 * self.seen + tf.reduce_mean(tf.abs(y)))
        return (y - prediction) ** 2 / self.seen


def loss_with_state(callbacks: list[Any]) -> Result:
    loss = Remembering()
    model = dense(loss=loss)
    history = model.fit(batches(), callbacks=callbacks, **FIT)
    return result(history, model, seen=loss.seen)


class DrawsWhenTraced(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any, training: bool = False) -> Any:
        return x * np.random.uniform(0.5, 1.5) + random.random() if training else x


def traced_draws(callbacks: list[Any]) -> Result:
    model = dense(DrawsWhenTraced())
    after: list[float] = []
    drawing = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: after.append(random.random())
    )
    history = model.fit(batches(), callbacks=[drawing, *callbacks], **FIT)
    return result(history, model, after=after)


class DrawsWhenCalled(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(4)
        self.calls = 0

    def call(self, x: Any, training: bool = False) -> Any:
        self.calls += 1
        return x + self.generator.normal(size=(1, 4)).astype("float32") * (self.calls % 3)


def eager_draws(callbacks: list[Any]) -> Result:
    model = dense(DrawsWhenCalled(), run_eagerly=True)
    history = model.fit(batches(), callbacks=callbacks, validation_data=batches(), **FIT)
    return result(history, model)


class Lowers(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].rate = 0.5 / (epoch + 2)
        self.model.ended = epoch


def attribute_of_keras(callbacks: list[Any]) -> Result:
    model = dense(keras.layers.Dropout(0.5), run_eagerly=True)
    model.ended = -1
    history = model.fit(batches(), callbacks=[Lowers(), *callbacks], **FIT)
    return result(history, model, rate=model.layers[0].rate, ended=model.ended)


def curriculum(callbacks: list[Any]) -> Result:
    difficulty = tf.Variable(1.0)
    data = batches().map(lambda x, y: (x * difficulty, y))
    raising = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: difficulty.assign(difficulty * 1.5)
    )
    model = dense()
    history = model.fit(data, callbacks=[raising, *callbacks], **FIT)
    return result(history, model, difficulty=difficulty)


class DrawsFromTensorFlow(keras.callbacks.Callback):  # type: ignore[misc]
    """Draws outside of all steps: from a seed's own sequence, and from the global generator."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for noise in (tf.random, tf.random.get_global_generator()):
            weight = self.model.layers[0].kernel
            weight.assign(weight + 0.01 * noise.normal(weight.shape))


def draws_from_tensorflow(callbacks: list[Any]) -> Result:
    tf.random.set_global_generator(tf.random.Generator.from_seed(3))
    model = dense()
    return result(model.fit(batches(), callbacks=[DrawsFromTensorFlow(), *callbacks], **FIT), model)


class CountsOnTheModel(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps what it counts in private attributes of objects of Keras."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model._counted = getattr(self.model, "_counted", 0) + 1
        self.model.optimizer._rate = 0.5 / self.model._counted
        self.model.optimizer.learning_rate = self.model.optimizer._rate


def private_attribute_of_keras(callbacks: list[Any]) -> Result:
    model = dense()
    history = model.fit(batches(), callbacks=[CountsOnTheModel(), *callbacks], **FIT)
    return result(history, model, counted=model._counted)


class Scale(keras.layers.Layer):  # type: ignore[misc]
    factor = 1.0

    def call(self, x: Any) -> Any:
        return x * self.factor


class Sets(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets what is baked into the graphs at their first steps, and later in vain."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].factor = 3.0 + epoch

    def on_test_begin(self, logs: Any = None) -> None:
        self.model.layers[0].factor += 0.5


def set_before_the_first_step(callbacks: list[Any]) -> Result:
    model = dense(Scale())
    history = model.fit(batches(), validation_data=batches(), callbacks=[Sets(), *callbacks], **FIT)
    return result(history, model, factor=model.layers[0].factor)


class Compiles(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.compile(keras.optimizers.SGD(0.01), "mae")
            self.model.make_train_function(force=True)


def compiled_again(callbacks: list[Any]) -> Result:
    model = dense(keras.layers.Dropout(0.2))
    return result(model.fit(batches(), callbacks=[Compiles(), *callbacks], **FIT), model)


class Begins(keras.metrics.Metric):  # type: ignore[misc]
    """Begins at one and is reset to zero: fit does not reset what its first step builds."""

    def __init__(self) -> None:
        super().__init__(name="begins")
        self.total = self.add_weight(initializer="ones")

    def update_state(self, y: Any, prediction: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(1.0)

    def result(self) -> Any:
        return self.total + 0.0

    def reset_state(self) -> None:
        self.total.assign(0.0)


def metric_in_its_first_epoch(callbacks: list[Any]) -> Result:
    model = dense(metrics=[Begins()])
    return result(model.fit(batches(), callbacks=callbacks, **FIT), model)


PROGRAMS = [
    gan,
    eager_gan,
    second_model,
    stateful_layer,
    loss_with_state,
    traced_draws,
    eager_draws,
]
PROGRAMS += [set_before_the_first_step, attribute_of_keras, curriculum, compiled_again]
PROGRAMS += [private_attribute_of_keras, draws_from_tensorflow, metric_in_its_first_epoch]


def attempt(
    program: Callable[[list[Any]], Result], number: int, others: list[Any], *, seed: int = 1
) -> Result:
    """Run a program as a process of its own would: what it seeds is the same, the rest is not."""
    keras.utils.set_random_seed(seed)
    if number:
        np.random.seed(number)
        random.seed(number)
    return program(others)


def interrupted(program: Callable[[list[Any]], Result], folder: Path, *steps: int) -> Result:
    for number, step in enumerate(steps):
        with pytest.raises(RuntimeError, match="interrupted at a step"):
            attempt(program, number, [kept(folder), Interrupting(step)])
    return attempt(program, len(steps), [kept(folder)])


def kept(folder: Path, **options: Any) -> BackupAndRestore:
    return BackupAndRestore(str(folder), **{"save_freq": 1, "delete_checkpoint": False, **options})


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_resumed_training_is_the_undisturbed_one(
    tmp_path: Path, program: Callable[[list[Any]], Result]
) -> None:
    bare = attempt(program, 0, [])
    whole = attempt(program, 0, [kept(tmp_path / "whole")])
    assert whole == bare
    assert interrupted(program, tmp_path / "killed", 2, 4) == whole


# ---------------------------------------------------------------------- what is saved


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


def test_what_comes_in_mid_training_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                self.mean = keras.Variable(1.0)

    monkeypatch.setattr("runner.training.parts.WALK_SHARE", 0.0)
    dense().fit(batches(), callbacks=[Late(), kept(tmp_path)], **FIT)
    assert "Late.mean was made in mid-training" in caplog.text


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


# ---------------------------------------------------------------------- another program


def fitted(folder: Path, *others: Any, n: int = 24, size: int = 6, **options: Any) -> Any:
    if not any(isinstance(other, BackupAndRestore) for other in others):
        others = (kept(folder), *others)
    keras.utils.set_random_seed(1)
    model = options.pop("model", None) or dense(keras.layers.Dropout(0.2))
    history = model.fit(
        X[:n],
        Y[:n],
        batch_size=size,
        callbacks=[*others],
        **{**FIT, **options},
    )
    return model, history


class Stopping(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises at the step after the one that is saved, when it is."""

    def __init__(self, backup: BackupAndRestore, step: int) -> None:
        super().__init__()
        self.backup = backup
        self.step = step

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.step:
            assert self.backup._takeover is not None
            assert self.backup._takeover.loop is not None
            self.backup._takeover.loop.saving.checkpointer.wait()
            raise RuntimeError("interrupted at a step")


def stopped(folder: Path, *others: Any) -> None:
    """Train until a checkpoint after the third step of the first epoch is there."""
    backup = kept(folder, save_freq=3)
    with pytest.raises(RuntimeError, match="interrupted at a step"):
        fitted(folder, *others, backup, Stopping(backup, 3))


@pytest.mark.parametrize(
    ("now", "updates", "said"),
    [
        ({"size": 12}, 3 + 1 + 4, "epoch 1 goes on after 1 of 2 steps"),
        ({"size": 3}, 3 + 2 + 16, "epoch 1 goes on after 6 of 8 steps"),
        ({"size": 24}, 3 + 1 + 2, "epoch 1 goes on after 0 of 1 steps"),
        ({"n": 12}, 3 + 2 + 4, "epoch 1 begins again"),
    ],
)
def test_other_batches_or_data_are_taken_over_and_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    now: Mapping[str, Any],
    updates: int,
    said: str,
) -> None:
    """Every epoch is trained to its end, whatever step the checkpoint was at."""
    stopped(tmp_path)
    model, history = fitted(tmp_path, **now)
    assert said in caplog.text
    assert len(history.epoch) == 3
    assert min(history.history["loss"]) > 0
    assert int(model.optimizer.iterations) == updates


def test_a_lowered_learning_rate_counts_if_nothing_had_changed_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path)
    lower = dense(keras.layers.Dropout(0.2))
    lower.optimizer.learning_rate = 0.001
    model, _ = fitted(tmp_path, model=lower)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert "optimizer.learning_rate 0.05" in caplog.text


def test_a_learning_rate_that_was_changed_in_training_is_restored(tmp_path: Path) -> None:
    class Halves(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.left = 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.left:
                self.left = 0
                self.model.optimizer.learning_rate = 0.025

    stopped(tmp_path, Halves())
    lower = dense(keras.layers.Dropout(0.2))
    lower.optimizer.learning_rate = 0.001
    model, _ = fitted(tmp_path, Halves(), model=lower)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025)


def test_a_model_of_load_model_is_the_same_model(tmp_path: Path) -> None:
    def program(others: list[Any]) -> Result:
        model = dense(keras.layers.Dropout(0.2))
        if path.exists():
            model = keras.models.load_model(path)
        else:
            model.save(path)
        return result(model.fit(batches(), callbacks=others, **FIT), model)

    path = tmp_path / "model.keras"
    whole = attempt(program, 0, [kept(tmp_path / "whole")])
    path.unlink()
    assert interrupted(program, tmp_path / "killed", 2, 4) == whole


def test_several_fits_with_one_folder_are_resumed_at_the_one_that_was_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fits before it had ended: they are passed over, and no epoch is trained twice."""
    ended: Counter[str] = Counter()
    monkeypatch.setattr("runner.training.callback._ENDED", ended)

    def rounds(folder: Path, interrupting: Any) -> Any:
        ended.clear()  # as a new process
        keras.utils.set_random_seed(1)
        model = dense(keras.layers.Dropout(0.2))
        for _ in range(3):
            backup = kept(folder, delete_checkpoint=True)
            model.fit(X, Y, batch_size=6, epochs=1, verbose=0, callbacks=[backup, interrupting])
        return model

    whole = rounds(tmp_path / "whole", Interrupting())
    with pytest.raises(RuntimeError, match="interrupted at a step"):
        rounds(tmp_path / "killed", Interrupting(6))  # in the second
    again = rounds(tmp_path / "killed", Interrupting())
    assert int(again.optimizer.iterations) == 3 * STEPS
    for one, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert "this fit is passed over" in caplog.text


# ---------------------------------------------------------------------- left by an exception


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


class Halves(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the learning rate by its own count of epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends += 1
        self.model.optimizer.learning_rate = 0.05 / 2**self.ends


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
