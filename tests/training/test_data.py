"""The order of the data is a pure function of (seed, epoch), and any step can be sought."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.datasets.arrays import kept
from runner.errors import DataError
from runner.store.receiving import Received, told_to
from runner.training.data.batches import Batches, Held, permutation
from runner.training.private import ArrayDataAdapter
from tests.datasets.test_npz import anonymous_mb


def test_permutation_is_one() -> None:
    for n in (1, 2, 7, 1000):
        for epoch in (0, 1, 200):
            assert sorted(permutation(n, 3, epoch)) == list(range(n))


def test_permutation_never_changes() -> None:
    """Bits of a training depend on it: no version of anything may change it."""
    text = ",".join(str(i) for e in range(3) for i in permutation(1000, 42, e))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "5c650cdc700075a14d27a75a7fe273d5663e4b497304ae17cf929e9998e0a4f7"


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 + 5])
def test_any_seed_will_do(seed: int) -> None:
    assert sorted(permutation(10, seed, 0)) == list(range(10))


def test_epochs_and_seeds_have_unrelated_orders() -> None:
    """No two share more places than chance would have it; positions are uniform."""
    n = 2000
    orders = [permutation(n, seed, epoch) for seed in range(4) for epoch in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 12  # 1 expected
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    first_half = np.mean([np.argsort(order)[: n // 2] < n // 2 for order in orders])
    assert abs(first_half - 0.5) < 0.02


def arrays(n: int = 23) -> tuple[Any, Any]:
    x = np.arange(n * 12, dtype="uint8").reshape(n, 2, 2, 3)
    return x, np.arange(n, dtype="int64")


def listed(batches: Any) -> list[list[int]]:
    return [np.asarray(batch[1]).tolist() for batch in batches]


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("step", [0, 2])
def test_pipeline_and_numpy_give_the_same_batches(repeat: int, step: int) -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7, repeat=repeat)
    pipeline = data.get_tf_dataset()
    for epoch in (0, 4, 1):
        data.seek(epoch, step)
        expected = list(data.numpy_batches(epoch, step))
        found = list(pipeline)
        assert len(found) == len(data) - step
        for (x1, y1), (x2, y2) in zip(expected, found, strict=True):
            assert x2.numpy().dtype == np.uint8
            np.testing.assert_array_equal(x1, x2.numpy())
            np.testing.assert_array_equal(y1, y2.numpy())


def test_all_pipelines_of_the_data_follow_a_seek() -> None:
    """Keras makes more than one."""
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7)
    first, second = data.get_tf_dataset(), data.get_tf_dataset()
    data.seek(3)
    assert listed(first) == listed(second) == listed(data.numpy_batches(3))


def test_running_pass_is_not_disturbed_by_a_seek() -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7)
    data.seek(0)
    running = iter(data.get_tf_dataset())
    begun = [next(running)]
    data.seek(1)
    assert listed([*begun, *running]) == listed(data.numpy_batches(0))


def test_each_pass_without_a_seek_is_the_next_epoch() -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7)
    pipeline = data.get_tf_dataset()
    found = []
    for _ in range(3):
        data.on_epoch_begin()
        found.append(listed(pipeline))
        data.on_epoch_end()
    assert found == [listed(data.numpy_batches(epoch)) for epoch in range(3)]


def test_every_example_comes_repeat_times() -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7, repeat=4)
    counts = np.bincount(np.concatenate([b[1] for b in data.numpy_batches(0)]))
    assert (counts == 4).all()
    assert len(data) == 19
    assert data.partial_batch_size == 2


def test_without_shuffle_the_order_is_that_of_the_arrays() -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=10, seed=7, shuffle=False)
    assert [b for batch in listed(data.numpy_batches(5)) for b in batch] == list(range(23))


def test_weights_of_classes_and_samples_are_multiplied() -> None:
    y = np.array([0, 1, 2, 1])
    data = Batches(
        np.zeros((4, 1)),
        y,
        batch_size=4,
        seed=0,
        shuffle=False,
        sample_weight=np.array([1, 1, 1, 2.0]),
        class_weight={1: 0.5, 2: 3.0},
    )
    ((_, _, weights),) = data.numpy_batches(0)
    assert weights.tolist() == [1, 0.5, 3, 1]


@pytest.mark.parametrize(
    ("y", "class_weight"),
    [
        ([1, 0, 2, 1], {0: 2, 2: 0.5}),
        ([[1], [0], [2], [1]], {0: 2.0, 2: 0.5}),
        ([1.0, 0.0, 2.0, 1.0], {0.0: 2.0, np.int64(2): 0.5}),
        ([[0.1, 0.9, 0], [0.9, 0, 0.1], [0, 0.1, 0.9], [0, 1, 0]], {0: 2.0, 2: 0.5, 7: 3.0}),
    ],
)
def test_class_weights_are_those_of_keras_for_class_numbers(y: Any, class_weight: Any) -> None:
    y = np.array(y)
    x = np.zeros((4, 1))
    data = Batches(x, y, batch_size=4, seed=0, shuffle=False, class_weight=class_weight)
    ((_, _, weights),) = data.numpy_batches(0)
    assert weights.dtype == np.float32
    assert weights.tolist() == [1.0, 2.0, 0.5, 1.0]
    keras_s = ArrayDataAdapter(x, y, class_weight=class_weight)
    ((_, _, expected),) = keras_s.get_numpy_iterator()
    assert weights.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("y", "class_weight", "text"),
    [
        ([0.05, 0.95, 0.05, 0.95], {0: 1.0, 1: 5.0}, "whole numbers from 0; received 0.05"),
        ([-1, 1, 1, -1], {-1: 5.0, 1: 1.0}, "whole numbers from 0; received -1"),
        ([0, 1, 1, 0], {-1: 5.0, 1: 1.0}, "class numbers from 0; received -1"),
        ([0, 1, 1, 0], {0.5: 5.0, 1: 1.0}, "class numbers from 0; received 0.5"),
        ([0, 1, 1, 0], {"0": 5.0, 1: 1.0}, "class numbers from 0; received '0'"),
        (["a", "b", "a", "b"], {0: 5.0}, "received <U1 of shape"),
        ({"a": [0, 1, 1, 0]}, {0: 5.0}, "one array of targets; received a dict"),
        (np.zeros((4, 2, 2), int), {0: 5.0}, "received int64 of shape (4, 2, 2)"),
        (None, {0: 5.0}, "received object"),
    ],
)
def test_class_weights_that_would_be_read_wrongly_are_refused_by_name(
    y: Any, class_weight: Any, text: str
) -> None:
    with pytest.raises(DataError) as caught:
        Batches(np.zeros((4, 1)), y, batch_size=4, seed=0, class_weight=class_weight)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("x", "text"), [(np.zeros((0, 8)), "are empty; shapes"), (np.zeros(()), "equally many; shapes")]
)
def test_no_examples_are_refused_in_words(x: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        Batches(x, batch_size=4, seed=0)


@pytest.mark.parametrize("examples", [40, 42, 8, 3])
def test_a_step_is_compiled_for_the_shapes_that_keras_s_own_pipeline_has(examples: int) -> None:
    x, y = np.zeros((examples, 2), "uint8"), np.arange(examples)
    keras_s = ArrayDataAdapter(x, y, batch_size=8).get_tf_dataset().element_spec
    ours = Batches(x, y, batch_size=8, seed=1).get_tf_dataset().element_spec
    assert [part.dtype for part in ours] == [part.dtype for part in keras_s]
    known = None if examples % 8 else 8
    assert [tuple(part.shape) for part in ours] == [(known, 2), (known,)]
    if known:
        assert [part.shape for part in ours] == [part.shape for part in keras_s]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_of_arrays_that_are_shared_give_what_a_copy_of_them_gives(
    own: bool, shuffle: bool
) -> None:
    """The batches of both kinds, and the hash that earlier versions wrote into checkpoints."""
    x, y = arrays(60)
    held = Held((x, y.astype("int32")), own=own)
    for rows in (np.arange(0, 60, 2), np.arange(1, 60, 3)):
        given: Any = {"batch_size": 8, "seed": 3, "repeat": 2, "shuffle": shuffle}
        shared = Batches.of_rows(held, rows, **given)
        copied = Batches(x[rows], y[rows].astype("int32"), **given)
        assert (len(shared), shared.examples) == (len(copied), len(rows))
        assert shared.content() == copied.content()
        shared.seek(2, 1)
        found, expected = list(shared.get_tf_dataset()), list(copied.numpy_batches(2, 1))
        for one, two, three in zip(found, expected, shared.numpy_batches(2, 1), strict=True):
            for part in range(2):
                np.testing.assert_array_equal(one[part].numpy(), two[part])
                np.testing.assert_array_equal(three[part], two[part])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float64", ">i4"])
def test_arrays_of_every_kind_become_variables_of_what_they_were(dtype: str) -> None:
    x = np.arange(40).reshape(20, 2).astype(dtype)
    for own in (True, False):
        (tensor,) = Held((x,), own=own).variables()
        assert tensor.dtype.as_numpy_dtype == x.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensor.numpy(), x)


def test_the_arrays_of_a_program_may_be_changed_by_it() -> None:
    x, y = arrays()
    data = Batches(x, y, batch_size=5, seed=7)
    before = [batch[0].numpy().tolist() for batch in data.get_tf_dataset()]
    x[:] = 0
    assert [batch[0].numpy().tolist() for batch in data.get_tf_dataset()] == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_training_and_its_validation_share_one_copy_of_the_data() -> None:
    x, y = kept(np.ones((500, 200, 200, 3), "uint8")), np.arange(500)
    given: Any = {"batch_size": 4, "seed": 1}
    next(iter(Batches(x[:8], y[:8], **given).get_tf_dataset()))  # TensorFlow has begun
    before = anonymous_mb()
    held = Held((x, y), own=True)
    both = [Batches.of_rows(held, rows, **given) for rows in (np.arange(400), np.arange(400, 500))]
    batches = [next(iter(data.get_tf_dataset())) for data in both]
    assert [data.content() != "" for data in both] == [True, True]
    assert anonymous_mb() - before < 0.9 * x.nbytes / 1e6  # a copy takes all of it
    assert [batch[0].shape for batch in batches] == [(4, 200, 200, 3)] * 2


def test_structures_are_kept() -> None:
    data = Batches({"a": np.arange(4), "b": np.ones((4, 2))}, batch_size=3, seed=0)
    ((first,), _) = list(data.get_tf_dataset())
    assert set(first) == {"a", "b"}
    assert first["b"].shape == (3, 2)


@pytest.mark.parametrize(
    "broken",
    [
        {"y": np.arange(22)},
        {"x": np.zeros((0, 2)), "y": np.zeros(0)},
        {"x": np.array(3.0)},
        {"batch_size": 0},
        {"repeat": 0},
        {"sample_weight": np.ones(5)},
    ],
)
def test_what_can_not_be_batched_is_refused(broken: dict[str, Any]) -> None:
    x, y = arrays()
    with pytest.raises(DataError):
        Batches(**{"x": x, "y": y, "batch_size": 5, "seed": 0, **broken})


def test_what_is_read_from_the_disk_gives_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all ways out, from any step, also of a file with a header and of a part of it."""
    monkeypatch.setattr("runner.datasets.arrays.IN_MEMORY", 0.0)
    x = np.random.default_rng(1).integers(0, 256, (60, 70, 70), np.uint8)
    np.save(tmp_path / "x.npy", x)
    mapped, y = np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(50)
    rows = np.arange(3, 48)
    options: dict[str, Any] = {"batch_size": 7, "seed": 5}
    memory = Batches.of_rows(Held((x[5:55], y)), rows, **options)
    disk = Batches.of_rows(Held((np.asarray(mapped)[5:55], y), own=True), rows, **options)
    looks: list[Received] = []
    with told_to(looks.append):
        assert disk.content() == memory.content()
    assert looks, "reading all of it takes long, and is to be seen"
    for epoch, step in ((0, 0), (1, 3), (2, 6)):
        expected = list(memory.numpy_batches(epoch, step))
        for batches in (memory, disk):
            batches.seek(epoch, step)
            from_jax = list(batches.get_jax_iterator())
            batches.seek(epoch, step)
            from_tf = [(a.numpy(), b.numpy()) for a, b in batches.get_tf_dataset()]
            for found in (from_jax, from_tf):
                assert [part.tolist() for pair in found for part in pair] == [
                    part.tolist() for pair in expected for part in pair
                ]
    assert isinstance(disk._held.variables()[0], np.ndarray)
