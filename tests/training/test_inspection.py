"""Randomness that no checkpoint can hold is found in the traced step; the rest is saved."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.training.hidden import hidden_generators
from runner.training.inspection import problems
from runner.training.state import Variables

IN_CLOSURE = keras.random.SeedGenerator(5)
COUNTER = tf.Variable(0.0)


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


@pytest.mark.parametrize("kind", ["tf.random", "tf.nn.dropout", "numpy", "stray variable"])
def test_what_can_not_be_exact_is_named(kind: str) -> None:
    model = stepped(Noise(kind))
    (problem,) = problems(model, Variables(model).reader.handles)
    assert "not exact" in problem
    if kind == "stray variable":
        assert "no layer tracks" in problem


@pytest.mark.parametrize("kind", ["keras", "tracked", "global", "stateless"])
def test_what_is_saved_is_no_problem(kind: str) -> None:
    model = stepped(Noise(kind))
    assert problems(model, Variables(model).reader.handles) == []


def test_generators_in_closures_and_globals_are_found() -> None:
    inner = keras.random.SeedGenerator(9)
    other = tf.random.Generator.from_seed(1)

    def noisy(x: Any) -> Any:
        return x + keras.random.normal((3,), seed=inner) + other.normal((3,))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(noisy), Noise("global")])
    found = {id(state) for state in hidden_generators(model)}
    assert found == {id(inner.state), id(other.state), id(IN_CLOSURE.state)}


def test_names_are_the_same_for_the_second_model_of_a_process() -> None:
    """Keras numbers unnamed layers on and on; digests must not depend on it."""

    def names() -> list[str]:
        model = stepped(keras.layers.Dropout(0.1))
        return Variables(model).names

    assert names() == names()


def test_a_layer_that_chooses_while_it_is_traced_is_named() -> None:
    """AugMix draws from Python's `random`: its graph is another one in the next process."""
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.AugMix((0, 1)), keras.layers.Flatten()]
    )
    model.compile("sgd", "mse")
    model.make_train_function()
    assert any("AugMix makes its choices once" in problem for problem in problems(model, []))
