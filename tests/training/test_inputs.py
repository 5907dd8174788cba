"""Whatever fit takes in memory, its batches are Keras's own: values, dtypes, shapes, kinds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import BackupAndRestore
from runner.training.data.arrays import FitArrays
from runner.training.private import ArrayDataAdapter
from tests.harness import few

N, BATCH = 23, 5
TENSORFLOW = keras.backend.backend() == "tensorflow"


def numbers(*shape: int, dtype: str = "float32") -> Any:
    return (np.random.default_rng(0).normal(size=(N, *shape)) * 9).astype(dtype)


def texts() -> Any:
    return np.array(["a " * (i % 4) + "b" for i in range(N)])


def tf(name: str) -> Any:
    found: Any = pytest.importorskip("tensorflow")
    for part in name.split("."):
        found = getattr(found, part)
    return found


def scipy(kind: str) -> Any:
    module = pytest.importorskip("scipy.sparse")
    dense = numbers(4)
    return getattr(module, kind)(np.where(dense > 0, dense, 0))


def pandas(kind: str, data: Any) -> Any:
    return getattr(pytest.importorskip("pandas"), kind)(data)


def sparse_tensor() -> Any:
    dense = numbers(4)
    return tf("sparse.from_dense")(np.where(dense > 0, dense, 0))


def ragged(dtype: str = "float32") -> Any:
    rows = [np.arange(i % 4).astype(dtype).tolist() for i in range(N)]
    return tf("ragged.constant")(rows, dtype=dtype)


def jax_sparse() -> Any:
    module = pytest.importorskip("jax.experimental.sparse")
    dense = numbers(4)
    return module.BCOO.fromdense(np.where(dense > 0, dense, 0))


Y = np.arange(N)
DATA: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        dtype: partial(lambda dtype: {"x": numbers(3, dtype=dtype), "y": Y}, dtype)
        for dtype in ("float16", "float32", "float64", "int8", "int64", "uint8", "bool")
    },
    "x alone": lambda: {"x": numbers(3)},
    "x alone, in a list": lambda: {"x": [numbers(3)]},
    "lists": lambda: {"x": [numbers(3), numbers(2)], "y": [Y, numbers(1)]},
    "tuples in dicts": lambda: {
        "x": {"b": (numbers(3), numbers(2)), "a": {"c": numbers(1)}},
        "y": {"one": Y, "other": numbers(1)},
        "sample_weight": np.arange(N, dtype="float64"),
    },
    "None within": lambda: {"x": {"a": numbers(3), "b": None}, "y": Y},
    "weights": lambda: {"x": numbers(3), "y": Y, "sample_weight": np.arange(N) % 2 > 0},
    "class weights": lambda: {"x": numbers(3), "y": Y % 2, "class_weight": {0: 0.3, 1: 5}},
    "masked": lambda: {"x": np.ma.masked_greater(numbers(3), 0), "y": Y},
    "not contiguous": lambda: {"x": numbers(6)[:, ::2].T.copy().T, "y": Y[::-1]},
    "empty rows": lambda: {"x": numbers(0), "y": Y},
    "texts": lambda: {"x": texts().astype(object), "y": Y},
    "tensor": lambda: {"x": tf("constant")(numbers(3)), "y": tf("constant")(Y)},
    "tensor of texts": lambda: {"x": tf("constant")(texts()), "y": Y},
    "float64 tensor": lambda: {"x": tf("constant")(numbers(3, dtype="float64")), "y": Y},
    "bfloat16 tensor": lambda: {"x": tf("cast")(numbers(3), "bfloat16"), "y": Y},
    "keras tensor": lambda: {"x": keras.ops.convert_to_tensor(numbers(3)), "y": Y},
    "ragged": lambda: {"x": ragged(), "y": Y},
    "ragged of integers": lambda: {"x": {"a": ragged("int64"), "b": numbers(2)}, "y": Y},
    "sparse": lambda: {"x": sparse_tensor(), "y": Y},
    "sparse beside dense": lambda: {"x": [sparse_tensor(), numbers(2)], "y": Y},
    "scipy csr": lambda: {"x": scipy("csr_matrix"), "y": Y},
    "scipy coo": lambda: {"x": scipy("coo_matrix"), "y": Y},
    "frame": lambda: {"x": pandas("DataFrame", numbers(3)), "y": pandas("Series", Y)},
    "frame of odd names": lambda: {
        "x": pandas("DataFrame", {"data": Y, "indices": Y * 0.5, "row": Y > 3}),
        "y": pandas("Series", Y.astype("float16")),
    },
    "frame of texts": lambda: {"x": pandas("DataFrame", {"a": texts().astype(object)}), "y": Y},
}
if not TENSORFLOW:
    DATA["jax sparse"] = lambda: {"x": jax_sparse(), "y": Y}


def both(data: dict[str, Any], *, shuffle: bool, size: int = BATCH) -> tuple[Any, Any]:
    try:
        keras_s = ArrayDataAdapter(**data, batch_size=size, shuffle=shuffle)
        passed(keras_s)
    except (ValueError, TypeError, AttributeError) as error:
        pytest.skip(f"Keras does not take it here: {error}")
    return keras_s, FitArrays(keras_s, seed=1, shuffle=shuffle)


def passed(adapter: Any) -> list[Any]:
    """One pass of an adapter, as the backend's fit takes it."""
    if TENSORFLOW:
        return list(adapter.get_tf_dataset())
    return list(adapter.get_jax_iterator())


def plain(part: Any) -> Any:
    """A tensor as something that can be compared, its kind and dtype included."""
    kind = type(part).__name__
    if part is None:
        return None
    if hasattr(part, "to_dense"):
        part = part.to_dense()
    elif hasattr(part, "todense"):
        part = part.todense()
    elif kind == "SparseTensor":
        part = tf("sparse.to_dense")(part)
    if kind == "RaggedTensor":
        return kind, part.dtype.name, part.to_list()
    array = np.asarray(part)
    return kind, str(array.dtype), array.shape, repr(array.tolist())


def compared(batches: list[Any]) -> list[Any]:
    return [keras.tree.map_structure(plain, batch) for batch in batches]


@pytest.mark.parametrize("size", [BATCH, 23])
@pytest.mark.parametrize("name", DATA)
def test_batches_in_order_are_those_of_keras(name: str, size: int) -> None:
    keras_s, ours = both(DATA[name](), shuffle=False, size=size)
    assert compared(passed(ours)) == compared(passed(keras_s))
    assert len(ours) == keras_s.num_batches
    assert ours.partial_batch_size == keras_s.partial_batch_size


@pytest.mark.skipif(not TENSORFLOW, reason="of tf.data")
@pytest.mark.parametrize("size", [BATCH, 23])
@pytest.mark.parametrize("name", DATA)
def test_a_step_is_compiled_for_what_keras_s_own_pipeline_gives(name: str, size: int) -> None:
    keras_s, ours = both(DATA[name](), shuffle=True, size=size)
    assert ours.get_tf_dataset().element_spec == keras_s.get_tf_dataset().element_spec


@pytest.mark.parametrize("name", DATA)
def test_shuffled_batches_are_keras_s_examples_in_our_order(name: str) -> None:
    in_order, _ = both(DATA[name](), shuffle=False, size=1)
    examples = compared(passed(in_order))
    _, ours = both(DATA[name](), shuffle=True, size=1)
    for epoch, step in ((0, 0), (2, 7)):
        ours.seek(epoch, step)
        assert compared(passed(ours)) == [examples[row] for row in ours.order(epoch)[step:]]


@pytest.mark.parametrize("name", DATA)
def test_other_content_has_another_hash(name: str) -> None:
    one = both(DATA[name](), shuffle=True)[1].content()
    assert both(DATA[name](), shuffle=True)[1].content() == one
    other = DATA[name]()
    other["sample_weight" if "class_weight" not in other else "class_weight"] = (
        {0: 0.3, 1: 6} if "class_weight" in other else np.ones(N) * 3
    )
    other.setdefault("y", Y)
    assert both(other, shuffle=True)[1].content() != one


# ---------------------------------------------------------------------- in a fit


def dense(**options: Any) -> Any:
    inputs = keras.Input((4,), **options)
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(inputs))


def reader() -> Any:
    vectorize = keras.layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    vectorize.adapt(texts().astype(object))
    inputs = keras.Input((), dtype="string")
    vectors = keras.layers.Embedding(9, 3)(vectorize(inputs))
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(vectors)))


def summing() -> Any:
    inputs = keras.Input((None,), ragged=True)
    total = keras.layers.Lambda(lambda x: tf("reduce_sum")(x, axis=1, keepdims=True))(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(total))


LABELS = (np.arange(N) % 2).astype("float32")
FITS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "texts": (reader, lambda: {"x": texts().astype(object)}),
    "tensor of texts": (reader, lambda: {"x": tf("constant")(texts())}),
    "ragged": (summing, lambda: {"x": ragged()}),
    "sparse": (lambda: dense(sparse=True), lambda: {"x": sparse_tensor()}),
    "scipy": (lambda: dense(sparse=True), lambda: {"x": scipy("csr_matrix")}),
    "frame": (
        dense,
        lambda: {"x": pandas("DataFrame", numbers(4)), "y": pandas("Series", LABELS)},
    ),
    "validation split": (dense, lambda: {"x": numbers(4), "validation_split": 0.2}),
    "smoothed labels": (dense, lambda: {"y": LABELS * 0.9 + 0.05, "class_weight": {0: 1, 1: 5}}),
    "labels of -1 and 1": (dense, lambda: {"y": LABELS * 2 - 1, "class_weight": {-1: 5, 1: 1}}),
    "keys of NumPy": (dense, lambda: {"class_weight": {np.int64(0): 1, np.float64(1): 5}}),
    "keys of floats": (dense, lambda: {"class_weight": {0.0: 0.3, 1.0: 5.0}}),
    "missing and unknown classes": (dense, lambda: {"class_weight": {1: 5.0, 7: 3.0}}),
    "labels in a column": (dense, lambda: {"y": LABELS[:, None], "class_weight": {0: 1, 1: 5}}),
    "labels of booleans": (dense, lambda: {"y": LABELS > 0, "class_weight": {0: 1, 1: 5}}),
}


@pytest.mark.parametrize("name", few(FITS, 4))
def test_a_fit_in_order_has_the_bits_of_keras_s_own(tmp_path: Path, name: str) -> None:
    found = []
    for callbacks in ([], [BackupAndRestore(str(tmp_path))]):
        keras.utils.set_random_seed(1)
        make, data = FITS[name]
        try:
            model = make()
            model.compile("sgd", "hinge" if "-1" in name else "binary_crossentropy")
            arguments = {"x": numbers(4), "y": LABELS, "batch_size": 5, "epochs": 2, **data()}
            history = model.fit(**arguments, shuffle=False, verbose=0, callbacks=callbacks)
        except (ValueError, TypeError) as error:
            if callbacks:
                raise
            pytest.skip(f"Keras does not take it here: {error}")
        found.append((history.history, [array.tolist() for array in model.get_weights()]))
    assert found[0] == found[1]
