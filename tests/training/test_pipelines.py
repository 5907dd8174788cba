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

from runner.training.data.pipelines import captured, doubt, late, order, stale, stateful_operations

Data = tf.data.Dataset
VARIABLE = tf.Variable(1.0, name="one")
OTHER = tf.Variable(2.0, name="other")


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
    "shuffled anew": lambda: base().cache().shuffle(9, 1).batch(8),
    "window, batched": lambda: Data.range(9).window(3).flat_map(lambda part: part.batch(3)),
    "ragged batch": lambda: Data.range(9).map(lambda i: tf.ones([i])).ragged_batch(2),
    "interleave, side by side, in order": lambda: many(lambda: Data.range(3)),
    "CSV": lambda: tf.data.experimental.CsvDataset("a.csv", [""]).batch(2),
    "CSVs": lambda: Data.range(3).interleave(
        lambda _: tf.data.experimental.CsvDataset("a.csv", [""])
    ),
    "table": lambda: Data.range(3).map(table().lookup),
    "stateless": lambda: Data.range(3).map(lambda i: tf.random.stateless_normal([2], [1, 2])),
}


def many(inner: Callable[[], Any], **told: Any) -> Any:
    return Data.range(3).interleave(lambda _: inner(), num_parallel_calls=2, **told)


def within(inner: Callable[[], Any]) -> Any:
    return Data.range(3).flat_map(lambda _: inner())


def mapped(**told: Any) -> Any:
    return Data.range(3).map(lambda i: i, num_parallel_calls=2, **told)


def in_any_order(data: Any) -> Any:
    options = tf.data.Options()
    options.deterministic = False
    return data.with_options(options)


def table() -> Any:
    keys = tf.constant([1], tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, keys), 0)


def mutable_table() -> Any:
    return tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)


def iterated() -> Any:
    iterator = iter(Data.range(9))
    return Data.range(3).map(lambda i: i + next(iterator))


def capturing(other: Any) -> Any:
    return Data.range(3).flat_map(lambda _: other.take(2))


def generated() -> Any:
    return Data.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec((), tf.int32))


def generator_drawn() -> Any:
    draws = tf.random.Generator.from_seed(1)
    return Data.range(3).map(lambda i: draws.normal([2]))


def keras_random() -> Any:
    layer = keras.layers.RandomFlip(seed=3)
    pictures = Data.from_tensors(np.ones((2, 4, 4, 3), "float32"))
    return pictures.map(lambda x: layer(x, training=True))


UNSOUND: dict[str, tuple[Callable[[], Any], str]] = {
    "shuffle": (lambda: base().shuffle(9).batch(8), "no seed; give it one"),
    "shuffle far inside": (lambda: base().shuffle(9).map(doubled).batch(8).repeat(), "shuffle"),
    "tf.random": (
        lambda: base().map(lambda x, y: (x + tf.random.normal([4]), y)),
        "draws from a state that can't be saved (RandomStandardNormal); tf.random.stateless_*",
    ),
    "tf.random's shuffle": (lambda: base().map(lambda x, y: (tf.random.shuffle(x), y)), "draws"),
    "tf.random.Generator": (generator_drawn, "tf.random.stateless_*"),
    "keras random": (keras_random, "AssignVariableOp"),
    "generator": (generated, "runs Python code"),
    "numpy_function": (
        lambda: Data.range(3).map(lambda i: tf.numpy_function(abs, [i], tf.int64)),
        "PyFunc",
    ),
    "not in order": (
        lambda: base().map(doubled, num_parallel_calls=2, deterministic=False),
        "deterministic=False",
    ),
    "random dataset": (lambda: Data.random(seed=1), "random"),
    "interleave, not in order": (
        lambda: many(lambda: Data.range(3), deterministic=False).batch(2),
        "deterministic=False",
    ),
    "shuffled within": (lambda: within(lambda: Data.range(3).shuffle(3)), "random"),
    "random within": (lambda: within(lambda: Data.random(seed=1).take(2)), "random"),
    "random within, side by side": (lambda: many(lambda: Data.random(seed=1)), "random"),
    "sampled within": (
        lambda: within(lambda: Data.sample_from_datasets([Data.range(3), Data.range(4)])),
        "random",
    ),
    "generator within": (lambda: within(generated), "runs Python code"),
    "map within, not in order": (lambda: within(lambda: mapped(deterministic=False)), "order"),
    "interleave within, not in order": (
        lambda: within(lambda: many(lambda: Data.range(3), deterministic=False)),
        "order",
    ),
    "options within": (lambda: within(lambda: in_any_order(mapped())), "order"),
    "another pipeline, random": (lambda: capturing(Data.range(5).shuffle(5)), "random"),
    "another pipeline with a variable": (
        lambda: capturing(Data.range(5).map(lambda i: tf.cast(i, tf.float32) * VARIABLE)),
        "another pipeline that reads variables",
    ),
    "an iterator": (iterated, "an iterator"),
    "mutable table": (lambda: Data.range(3).map(mutable_table().lookup), "table that can change"),
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


def shuffled() -> Any:
    return Data.range(40).shuffle(9, seed=3)


#: what may come after a shuffle that reshuffles; the reason where it may not
AFTER: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (shuffled, ""),
    "map, filter, prefetch": (
        lambda: (
            shuffled()
            .map(lambda i: 2 * i, num_parallel_calls=2)
            .filter(lambda i: i > 9)
            .prefetch(2)
        ),
        "",
    ),
    "batch, unbatch": (lambda: shuffled().batch(3).unbatch().padded_batch(4), ""),
    "take, skip, shard": (lambda: shuffled().take(30).skip(2).shard(2, 0), ""),
    "zip": (lambda: Data.zip((shuffled(), shuffled())).map(lambda a, b: 100 * a + b), ""),
    "a cache before": (lambda: Data.range(40).cache().repeat(2).shuffle(9, seed=3).batch(2), ""),
    "a cache": (lambda: shuffled().cache(), "CacheDataset comes after"),
    "repeat": (lambda: shuffled().repeat(2), "RepeatDataset comes after"),
    "concatenate": (lambda: Data.range(3).concatenate(shuffled()), "Concatenate"),
    "another shuffle": (lambda: shuffled().shuffle(4, seed=5), "shuffles twice"),
}


@pytest.mark.parametrize("name", AFTER)
def test_the_order_of_a_pass_is_known_from_how_many_were_begun(name: str) -> None:
    """Where `late` has no doubt, TensorFlow does it: a pass that is begun need not be read."""
    make, reason = AFTER[name]
    data = make()
    assert reason in (late(data) or "")
    assert bool(reason) == bool(late(data))
    if not reason:
        passes = [[x.numpy().tolist() for x in data] for _ in range(4)]
        assert len({str(one) for one in passes}) == 4
        again = make()
        begun = [iter(again) for _ in range(3)]
        assert [x.numpy().tolist() for x in again.skip(2)] == passes[len(begun)][2:]


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
    assert "order" in (doubt(in_any_order(base().map(doubled))) or "")


@tf.function  # type: ignore[untyped-decorator]
def larger(x: Any) -> Any:
    return tf.cond(x > 0, lambda: x * VARIABLE, lambda: x)


def floats() -> Any:
    return Data.range(3).map(lambda i: tf.cast(i, tf.float32))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (floats, []),
        (lambda: floats().map(lambda x: x * VARIABLE).batch(2), ["one"]),
        (lambda: floats().map(larger), ["one"]),
        (lambda: floats().filter(lambda x: x > VARIABLE), ["one"]),
        (lambda: many(lambda: floats().map(lambda x: x * OTHER)), ["other"]),
        (
            lambda: floats().map(lambda x: x * VARIABLE).map(lambda x: x * OTHER * VARIABLE),
            ["other", "one"],
        ),
        (lambda: Data.range(3).map(table().lookup), []),
    ],
)
def test_variables_that_a_pipeline_reads_are_found_wherever_it_reads_them(
    make: Callable[[], Any], names: list[str]
) -> None:
    data = make()
    found = captured(data)
    assert [variable.name for variable in found] == [f"{name}:0" for name in names]
    assert all(variable is VARIABLE or variable is OTHER for variable in found)
    assert doubt(data) is None


def test_where_a_variable_s_change_comes_late_is_said() -> None:
    data = floats().map(lambda x: x * VARIABLE)
    assert stale(data.batch(2), one_iterator=False) is None
    assert "ahead" in (stale(data.repeat(), one_iterator=True) or "")
    assert "cache()" in (stale(data.cache().batch(2), one_iterator=False) or "")
    assert stale(floats().cache().map(lambda x: x * VARIABLE), one_iterator=False) is None


def test_operations_inside_called_functions_are_seen() -> None:
    @tf.function  # type: ignore[untyped-decorator]
    def inner(x: Any) -> Any:
        return x + tf.random.normal([2])

    @tf.function  # type: ignore[untyped-decorator]
    def outer(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: x)

    graph = outer.get_concrete_function(tf.ones([2])).graph.as_graph_def()
    assert stateful_operations(graph) == {"RandomStandardNormal"}
