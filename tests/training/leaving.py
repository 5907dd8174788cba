"""Small trainings with state in odd places, and how they are interrupted."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner import BackupAndRestore
from tests.training.test_dropin import Interrupting

Result = dict[str, Any]

RNG = np.random.default_rng(0)

X = RNG.normal(size=(24, 4)).astype("float32")

Y = RNG.normal(size=(24, 1)).astype("float32")

FIT: dict[str, Any] = {"epochs": 3, "verbose": 0}


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


class Grows(keras.regularizers.Regularizer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, weight: Any) -> Any:
        self.calls += 1
        return 0.001 * self.calls * keras.ops.sum(weight**2)


class Noisy:
    """A metric that is no function."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(1)

    def __call__(self, true: Any, predicted: Any) -> Any:
        return keras.ops.mean(predicted, -1) * float(self.generator.random())


class Shrinks(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets what is Keras's own, where it finds it."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer._learning_rate.initial_learning_rate *= 0.9
        self.model.layers[2].kernel_regularizer.l2 *= 1.5
        self.model.layers[2].kernel_constraint.max_value *= 0.9


def eager_functions(callbacks: list[Any]) -> Result:
    """What Keras is given and calls at each step: losses, metrics, layers, what they use."""
    calls, generator = [0], np.random.default_rng(2)

    def warming_up(true: Any, predicted: Any) -> Any:
        calls[0] += 1
        return min(1.0, calls[0] / 8) * keras.ops.mean((true - predicted) ** 2, -1)

    def jitter(x: Any) -> Any:
        return x + generator.normal(size=4).astype("float32")

    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5)
    inner = [
        keras.layers.Dense(3, kernel_regularizer=Grows()),
        keras.layers.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm"),
    ]
    model = dense(keras.layers.Lambda(jitter), *inner, keras.layers.Dropout(0.2))
    model.compile(keras.optimizers.Adam(schedule), warming_up, metrics=[Noisy()], run_eagerly=True)
    history = model.fit(batches(), callbacks=[Shrinks(), *callbacks], **FIT)
    return result(history, model, calls=calls)


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
    # Keras 3.13's own fit fails where the size of a batch is not known
    data = batches(X.reshape(24, 2, 2)).unbatch().batch(6, drop_remainder=True)
    history = model.fit(data, callbacks=callbacks, **FIT)
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
    eager_functions,
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


class Halves(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the learning rate by its own count of epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends += 1
        self.model.optimizer.learning_rate = 0.05 / 2**self.ends
