"""What fit was given in memory, batched as Keras itself does it, in an order that can be sought.

Keras takes far more than NumPy arrays: texts, frames, sparse and ragged tensors, structures of
all of them, weights by class. It has read all that when a training begins. So what it made of
it is taken, and its own functions cut the batches: values, dtypes and shapes are those of a
plain fit, whatever Keras learns to take. Only the order of the examples is ours.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from runner.training import private
from runner.training.data.batches import Ordered
from runner.training.private import array_slicing


class FitArrays(Ordered):
    """The data of Keras's adapter for arrays, in our own order.

    Args:
        adapter: that fit made of what it was given.
        seed: of the order.
        shuffle: False keeps the examples' own order in every epoch.
    """

    def __init__(self, adapter: Any, *, seed: int, shuffle: bool) -> None:
        self._inputs = private.inputs_of(adapter)
        examples = next(int(part.shape[0]) for part in _leaves(self._inputs))
        super().__init__(examples, batch_size=adapter.batch_size, seed=seed, shuffle=shuffle)

    def _arrays_inside(self) -> Iterator[npt.NDArray[Any]]:
        for part in _leaves(self._inputs):
            yield from map(np.asarray, _dense(part))

    @cached_property
    def _sliceable(self) -> Any:
        return array_slicing.convert_to_sliceable(self._inputs, target_backend="jax")

    def _take(self, rows: npt.NDArray[np.int64]) -> Any:
        chosen = rows if self.shuffle else slice(int(rows[0]), int(rows[-1]) + 1)

        def one(part: Any) -> Any:
            return None if part is None else part.convert_to_jax_compatible(part[chosen])

        return keras.tree.map_structure(one, self._sliceable)

    def _tensors(self) -> Any:
        import tensorflow as tf

        inputs = array_slicing.convert_to_sliceable(self._inputs, target_backend="tensorflow")
        return tf.nest.map_structure(
            lambda part: None if part is None else tf.convert_to_tensor(part),
            keras.tree.lists_to_tuples(inputs),
            expand_composites=True,
        )

    def _gather(self, tensors: Any, rows: Any) -> Any:
        import tensorflow as tf

        def one(part: Any) -> Any:
            if isinstance(part, array_slicing.TensorflowSparseWrapper):
                return array_slicing.slice_tensorflow_sparse_wrapper(part, rows)
            if isinstance(part, list | tuple | dict):
                return None  # what is in it is looked at by itself
            return part if part is None else tf.gather(part, rows)

        return keras.tree.traverse(one, tensors)


def _leaves(inputs: Any) -> list[Any]:
    return [part for part in keras.tree.flatten(inputs) if part is not None]


#: the attributes of a ragged tensor, and of sparse ones of TensorFlow, SciPy and JAX
_HOLDERS = (
    ("flat_values", "nested_row_splits"),
    ("indices", "values", "dense_shape"),
    ("data", "row", "col", "shape"),
    ("data", "indices", "shape"),
)


def _dense(part: Any) -> list[Any]:
    """Return what an array or a tensor holds, as plain arrays."""
    if hasattr(part, "__array__"):
        return [part]
    if hasattr(part, "tocoo"):
        part = part.tocoo()
    names = next(names for names in _HOLDERS if all(hasattr(part, name) for name in names))
    return list(keras.tree.flatten([getattr(part, name) for name in names]))
