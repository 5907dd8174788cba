"""Randomness that no checkpoint can hold is found in the traced step; the rest is saved."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.training import backends
from runner.training.backends.tensorflow import captured
from runner.training.inspection import problems
from runner.training.state.variables import Variables

IN_CLOSURE = keras.random.SeedGenerator(5)
COUNTER = tf.Variable(0.0)
TEXT = tf.Variable("a")
TABLE = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)


class Noise(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.tracked = keras.random.SeedGenerator(4)

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        match self.kind:
            case "tf.random":
                return x + tf.random.normal(tf.shape(x))
            case "tf.nn.dropout":
                return tf.nn.dropout(x, 0.5)
            case "numpy":
                drawn = tf.numpy_function(lambda: np.float32(np.random.rand()), [], tf.float32)
                return x + tf.reshape(drawn, [1])
            case "stray variable":
                return x + COUNTER.assign_add(1.0)
            case "text":
                return x + tf.cast(tf.strings.length(TEXT), "float32")
            case "table":
                TABLE.insert(tf.constant([1], tf.int64), [1.0])
                return x + tf.reshape(TABLE.lookup(tf.constant([1], tf.int64)), [1])
            case "keras":
                return x + keras.random.normal(keras.ops.shape(x))
            case "tracked":
                return x + keras.random.normal(keras.ops.shape(x), seed=self.tracked)
            case "global":
                return x + keras.random.normal(keras.ops.shape(x), seed=IN_CLOSURE)
            case _:
                return x + tf.random.stateless_normal(tf.shape(x), [1, 2])


def stepped(layer: Any) -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    return model


@pytest.mark.parametrize("kind", ["tf.random", "tf.nn.dropout", "numpy", "text", "table"])
def test_what_can_not_be_exact_is_named(kind: str) -> None:
    model = stepped(Noise(kind))
    handles = Variables(model, captured=captured(model)).reader.handles
    (problem,) = problems(model, handles, backends.current().parts)
    assert "exact" in problem


@pytest.mark.parametrize("kind", ["keras", "tracked", "global", "stateless", "stray variable"])
def test_what_is_saved_is_no_problem(kind: str) -> None:
    model = stepped(Noise(kind))
    handles = Variables(model, captured=captured(model)).reader.handles
    assert problems(model, handles, backends.current().parts) == []


class Tracked(keras.Model):  # type: ignore[misc]
    """It has a step and a metric of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.dense = kind, keras.layers.Dense(1, kernel_regularizer="l2")
        self.tracker = keras.metrics.Mean(name="loss")
        self.wide = keras.metrics.Sum(name="wide")

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            found = self(x, training=True)
            a, b = keras.ops.mean((found - y) ** 2), keras.ops.sum(self.losses)
            total = keras.ops.sum(keras.ops.stack([a, b])) if self.kind == "stacked" else a + b
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(total, weights), weights)
        self.wide.update_state(y + found)
        batch = keras.ops.sum(found[:, 0] + y[:, 0], axis=0)
        self.tracker.update_state(
            {"sum": total, "stacked": total, "parts": a, "axis": batch}[self.kind]
        )
        return {"loss": self.tracker.result()}


@pytest.mark.parametrize("kind", ["sum", "stacked", "parts", "axis"])
def test_a_sum_that_is_added_to_a_metric_is_named(kind: str) -> None:
    """A sum over a batch is none of the kind, nor one that is given as the warning says."""
    model = Tracked(kind)
    model.compile("adam")
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    handles = Variables(model, captured=captured(model)).reader.handles
    found = problems(model, handles, backends.current().parts)
    assert [text for text in found if "keras.ops.stack" in text] == found
    assert len(found) == (kind == "sum")


def test_generators_in_closures_and_globals_are_found() -> None:
    inner = keras.random.SeedGenerator(9)
    other = tf.random.Generator.from_seed(1)

    def noisy(x: Any) -> Any:
        return x + keras.random.normal((3,), seed=inner) + other.normal((3,))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(noisy), Noise("global")])
    model.compile("sgd", "mse")
    found = Variables(model)
    handles = {id(handle) for handle in found.reader.handles}
    for state in (inner.state.value, other.state, IN_CLOSURE.state.value):
        assert id(state.handle) in handles


def test_names_are_the_same_for_the_second_model_of_a_process() -> None:
    """Keras numbers unnamed layers on and on; digests must not depend on it."""

    def names() -> list[str]:
        model = stepped(keras.layers.Dropout(0.1))
        return Variables(model).names

    assert names() == names()
