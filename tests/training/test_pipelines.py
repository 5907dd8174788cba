"""A tf.data pipeline is vouched for only if it gives the same batches in every process."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import (
    disable_op_determinism,
    enable_op_determinism,
    is_op_determinism_enabled,
)

from runner.training.pipelines import doubt, order, stateful_operations

Data = tf.data.Dataset


def base() -> Any:
    return Data.from_tensor_slices((np.ones((40, 4), "float32"), np.arange(40)))


def doubled(x: Any, y: Any) -> Any:
    return x * 2, y


SOUND: dict[str, Callable[[], Any]] = {
    "batch": lambda: base().batch(8),
    "parallel map": lambda: base().map(doubled, num_parallel_calls=2).batch(8).prefetch(2),
    "repeat": lambda: base().batch(8, drop_remainder=True).repeat(),
    "cache, take, skip": lambda: base().cache().batch(8).take(3).skip(1),
    "unbatch": lambda: base().batch(8).unbatch(),
    "zip, concatenate": lambda: Data.zip((Data.range(3).concatenate(Data.range(2)), Data.range(5))),
    "filter, window": lambda: Data.range(9).filter(lambda i: i > 1).window(2),
    "flat_map": lambda: Data.range(3).flat_map(Data.range),
    "interleave": lambda: Data.range(3).interleave(Data.range),
    "padded_batch": lambda: Data.range(3).padded_batch(2),
    "shuffled once": lambda: base().shuffle(9, 1, reshuffle_each_iteration=False).batch(8),
    "stateless": lambda: Data.range(3).map(lambda i: tf.random.stateless_normal([2], [1, 2])),
}


def generated() -> Any:
    return Data.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec((), tf.int32))


def keras_random() -> Any:
    layer = keras.layers.RandomFlip(seed=3)
    pictures = Data.from_tensors(np.ones((2, 4, 4, 3), "float32"))
    return pictures.map(lambda x: layer(x, training=True))


UNSOUND: dict[str, tuple[Callable[[], Any], str]] = {
    "shuffle": (lambda: base().shuffle(9).batch(8), "a new order in each epoch"),
    "shuffle with a seed": (lambda: base().shuffle(9, 1).batch(8), "a new order in each epoch"),
    "shuffle far inside": (lambda: base().shuffle(9).map(doubled).batch(8).repeat(), "shuffle"),
    "tf.random": (lambda: base().map(lambda x, y: (x + tf.random.normal([4]), y)), "Random"),
    "keras random": (keras_random, "AssignVariableOp"),
    "generator": (generated, "PyFunc"),
    "numpy_function": (
        lambda: Data.range(3).map(lambda i: tf.numpy_function(abs, [i], tf.int64)),
        "PyFunc",
    ),
    "not in order": (
        lambda: base().map(doubled, num_parallel_calls=2, deterministic=False),
        "deterministic=False",
    ),
    "random dataset": (lambda: Data.random(seed=1), "random"),
}


@pytest.fixture(autouse=True)
def unseeded() -> Iterator[None]:
    """As in a fresh process: no seed for all, and none demanded by an earlier test's training."""
    demanded = is_op_determinism_enabled()
    disable_op_determinism()
    tf.random.set_seed(None)
    yield
    if demanded:
        enable_op_determinism()
    keras.utils.set_random_seed(7)


@pytest.mark.parametrize("name", SOUND)
def test_sound(name: str) -> None:
    assert doubt(SOUND[name]()) is None


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound(name: str) -> None:
    make, reason = UNSOUND[name]
    assert reason in (doubt(make()) or "")


def test_a_shuffle_s_seeds_tell_its_order() -> None:
    keras.utils.set_random_seed(7)
    once = base().shuffle(9, seed=5, reshuffle_each_iteration=False)
    assert order(once.batch(8)) == "shuffled by seed 7/5"
    assert order(base().batch(8)) == ""


def test_a_shuffle_in_one_order_needs_a_seed() -> None:
    once = {"reshuffle_each_iteration": False}
    assert "has no seed" in (doubt(base().shuffle(9, **once)) or "")
    assert doubt(base().shuffle(9, seed=5, **once)) is None


def test_options_that_give_up_the_order() -> None:
    options = tf.data.Options()
    options.deterministic = False
    assert "order" in (doubt(base().map(doubled).with_options(options)) or "")


def test_operations_inside_called_functions_are_seen() -> None:
    @tf.function  # type: ignore[untyped-decorator]
    def inner(x: Any) -> Any:
        return x + tf.random.normal([2])

    @tf.function  # type: ignore[untyped-decorator]
    def outer(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: x)

    graph = outer.get_concrete_function(tf.ones([2])).graph.as_graph_def()
    assert stateful_operations(graph) == {"RandomStandardNormal"}
