"""The order of the data is a pure function of (seed, epoch): any step can be sought at once.

Position k of epoch e is example `permutation(n, seed, e)[k]`, whatever was read before, in
whatever process, with whatever version of NumPy or TensorFlow. So a resumed training reads the
same batches as an undisturbed one, and seeking costs nothing.
"""

from collections.abc import Iterator
from typing import Any, Self

import blake3
import keras
import numpy as np
import numpy.typing as npt

from runner.datasets.arrays import empty, kept, mixed, rows_of, stays_mapped
from runner.errors import DataError
from runner.store.ahead import ahead
from runner.store.receiving import receiving
from runner.training.digest import bytes_of
from runner.training.private import DataAdapter

_MASK = (1 << 64) - 1
_HASHED_BYTES = 1 << 24  #: of an array, at a time


def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of n examples in an epoch.

    The order of keyed 64-bit hashes; written out here, so that no library's update changes it.

    >>> permutation(6, seed=1, epoch=0), permutation(6, seed=1, epoch=1)
    (array([5, 0, 1, 4, 2, 3]), array([1, 2, 0, 5, 4, 3]))
    """
    with np.errstate(over="ignore"):
        key = np.array([seed & _MASK, epoch & _MASK], dtype=np.uint64)
        key = mixed(key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03))
        start = mixed(key[:1] ^ (key[1:] * np.uint64(0xD6E8FEB86659FD93)))
        hashes = mixed(
            (np.arange(1, n + 1, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
        )
    return np.argsort(hashes, kind="stable").astype(np.int64)


class Ordered(DataAdapter):  # type: ignore[misc]
    """Examples in memory as data for `model.fit`, in an order that can be sought.

    Subclasses hold the examples, and define how a batch of them is taken.

    Args:
        examples: how many there are.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        seed: of the order.
        repeat: how often each example comes in one epoch.
        shuffle: False keeps the examples' own order in every epoch.
    """

    def __init__(
        self, examples: int, *, batch_size: int, seed: int, repeat: int = 1, shuffle: bool = True
    ) -> None:
        self.examples = examples
        self._batch_size = batch_size
        self.seed = seed
        self.repeat = repeat
        self.shuffle = shuffle
        self._next = (0, 0)  # epoch and step of the next pass
        #: TensorFlow fills a smaller batch up with its own examples: each device needs one
        self.least = 1
        self._started = False
        self._taken: int | None = None  # batches of the pass, where they are counted
        self._variables: Any = None
        self._rows: npt.NDArray[np.int64] | None = None  # the examples, of the arrays'; None: all

    def _arrays_inside(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all that is held, for `content`."""
        raise NotImplementedError

    def _take(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return the batch of these examples, without TensorFlow."""
        raise NotImplementedError

    def _tensors(self) -> Any:
        """Return the examples for `_gather`."""
        raise NotImplementedError

    def _read(self, tensors: Any) -> Any:
        """Return what `_gather` takes, at the beginning of a pass in TensorFlow."""
        return tensors

    def _gather(self, tensors: Any, rows: Any) -> Any:
        """Return the batch of these examples, in TensorFlow."""
        raise NotImplementedError

    def __len__(self) -> int:
        return -(-self.examples * self.repeat // self._batch_size)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices of the epoch's examples, in the order of training."""
        total = self.examples * self.repeat
        found = permutation(total, self.seed, epoch) if self.shuffle else np.arange(total)
        found %= self.examples
        return found if self._rows is None else self._rows[found]

    def content(self) -> str:
        """Return a hash of the arrays, so that a resume notices other data."""
        hasher = blake3.blake3(max_threads=1)
        for part in self._arrays_inside():
            shape: Any = part.shape
            groups: Any = [...]
            if self._rows is not None:  # the same as of a copy of these rows
                shape = len(self._rows), *part.shape[1:]
                groups = np.array_split(self._rows, 1 + part.nbytes // _HASHED_BYTES)
            hasher.update(f"{part.dtype} {shape}".encode())
            with receiving(part.nbytes) as received:  # from a disk it takes long
                for group in groups:
                    found = part if group is ... else rows_of(part, group)
                    hasher.update(bytes_of(found))
                    received.add(found.nbytes)
        return hasher.hexdigest()[:16]

    def seek(self, epoch: int, step: int = 0) -> None:
        """Let the next pass begin at this step of this epoch."""
        self._next, self._started, self._taken = (epoch, step), False, None
        if self._variables is not None:
            order, first, _ = self._variables
            order.assign(self.order(epoch))
            first.assign(step)

    def numpy_batches(self, epoch: int, step: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from a step on, without TensorFlow."""
        order = self.order(epoch)
        for start in range(step * self._batch_size, len(order), self._batch_size):
            yield self._take(order[start : start + self._batch_size])

    # ------------------------------------------------------------------ keras's DataAdapter

    def get_tf_dataset(self) -> Any:
        """Return one pass as a tf.data pipeline; each iterator of it begins where `seek` set it."""
        import tensorflow as tf

        if self._variables is None:  # shared by all pipelines: each of them follows `seek`
            # On the host, whatever the accelerator: batches are put together by the CPU.
            with tf.init_scope(), tf.device("CPU:0"):
                order = tf.Variable(self.order(self._next[0]), trainable=False, dtype=tf.int64)
                first = tf.Variable(self._next[1], trainable=False, dtype=tf.int64)
                tensors = self._tensors()
            self._variables = (order, first, tensors)
        order, first, tensors = self._variables
        size, steps, least = self._batch_size, len(self), self.least

        def one_pass(_: Any) -> Any:
            examples = self._read(tensors)
            rows = order.read_value()  # once a pass: a later seek does not disturb a running one

            def batch(step: Any) -> Any:
                chosen = rows[step * size : (step + 1) * size]
                if not self.has_partial_batch:  # a step of known shapes is 1 to 2 % faster
                    chosen = tf.ensure_shape(chosen, (size,))
                if least > min(size, self.partial_batch_size or size):
                    given = tf.size(chosen)
                    chosen = tf.gather(chosen, tf.range(tf.maximum(given, least)) % given)
                return self._gather(examples, chosen)

            numbers = tf.data.Dataset.range(first.read_value(), steps)
            return numbers.map(batch, num_parallel_calls=2, deterministic=True)

        return tf.data.Dataset.range(1).flat_map(one_pass).prefetch(2)

    def get_jax_iterator(self) -> Iterator[Any]:
        """Yield the batches of one pass."""
        epoch, self._taken = self._next  # looked up at the first batch: after `seek`
        batches = self.numpy_batches(epoch, self._taken)
        if any(map(stays_mapped, self._arrays_inside())):  # a disk is waited for
            order, size = self.order(epoch), self._batch_size
            starts = range(self._taken * size, len(order), size)
            batches = ahead(lambda start: self._take(order[start : start + size]), starts, 2)
        for batch in batches:
            self._taken += 1
            yield batch

    def on_epoch_begin(self) -> None:
        """Begin a pass: the one that was sought, or the epoch after the last one.

        Keras may take a batch to build a model by, before the first epoch: that is no pass.
        """
        if self._started and (self._taken is None or self._taken >= len(self)):
            self.seek(self._next[0] + 1)
        self._started = True

    @property
    def num_batches(self) -> int:
        """Steps of an epoch."""
        return len(self)

    @property
    def batch_size(self) -> int:
        """Examples of a full batch."""
        return self._batch_size

    @property
    def has_partial_batch(self) -> bool:
        """Whether the last batch of an epoch is smaller."""
        return self.partial_batch_size is not None

    @property
    def partial_batch_size(self) -> int | None:
        """Examples of the last batch if it is smaller."""
        return (self.examples * self.repeat) % self._batch_size or None


class Batches(Ordered):
    """Arrays in memory as data for `model.fit`, in an order that can be sought.

    Args:
        x: inputs, an array or a structure of arrays with the same first dimension. They stay as
            they are (uint8 images stay uint8); rescale inside the model. A `numpy.memmap` of more
            than a third of the memory is read from its file, batch by batch.
        y: targets, likewise, or None.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        seed: of the order.
        repeat: how often each example comes in one epoch.
        shuffle: False keeps the arrays' order in every epoch.
        sample_weight: one weight per example, or None.
        class_weight: weight of each class of integer targets, multiplied into the sample weights.

    Example:
        >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, seed=1)
        >>> len(batches), [x.tolist() for x, y in batches.numpy_batches(epoch=0)]
        (3, [[0, 1], [4, 2], [3]])
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int,
        seed: int,
        repeat: int = 1,
        shuffle: bool = True,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
    ) -> None:
        if class_weight is not None:
            sample_weight = _weights(y, class_weight, sample_weight)
        parts: tuple[Any, ...] = (x,) if y is None else (x, y)
        if sample_weight is not None:
            parts = (x, y, sample_weight)
        self._held = Held(parts)
        if batch_size < 1 or repeat < 1:
            raise DataError(f"batch_size {batch_size} and repeat {repeat} must be at least 1.")
        super().__init__(
            _examples(self._held.arrays),
            batch_size=batch_size,
            seed=seed,
            repeat=repeat,
            shuffle=shuffle,
        )

    @classmethod
    def of_rows(cls, held: "Held", rows: npt.NDArray[np.int64], **options: Any) -> Self:
        """Return some of the examples that are held, and may be shared; no copy is made."""
        made = cls(*held.arrays, **options)
        made._held, made._rows, made.examples = held, rows, len(rows)
        return made

    def _arrays_inside(self) -> Iterator[npt.NDArray[Any]]:
        yield from keras.tree.flatten(self._held.arrays)

    def _take(self, rows: npt.NDArray[np.int64]) -> Any:
        return keras.tree.map_structure(lambda part: rows_of(part, rows), self._held.arrays)

    def _tensors(self) -> Any:
        return self._held.variables()

    def _read(self, tensors: Any) -> Any:
        return keras.tree.map_structure(
            lambda one: one if isinstance(one, np.ndarray) else one.read_value(), tensors
        )

    def _gather(self, tensors: Any, rows: Any) -> Any:
        import tensorflow as tf

        def gather(part: Any) -> Any:
            if not isinstance(part, np.ndarray):
                return tf.gather(part, rows)
            found = tf.numpy_function(
                lambda chosen: rows_of(part, chosen), [rows], part.dtype, stateful=False
            )
            return tf.ensure_shape(found, (rows.shape[0], *part.shape[1:]))

        return keras.tree.map_structure(gather, tensors)


class Held:
    """Arrays in memory and variables of the same content, for one or several `Batches`.

    Args:
        arrays: a structure of arrays with the same first dimension.
        own: nobody else changes them, or holds them for long: then there is one copy of them,
            which the variables share.
    """

    def __init__(self, arrays: Any, *, own: bool = False) -> None:
        self._own = own
        # tf.data takes a list for one tensor, a tuple for several
        self.arrays = keras.tree.lists_to_tuples(
            keras.tree.map_structure(lambda part: kept(part) if own else np.asarray(part), arrays)
        )
        self._variables: Any = None

    def variables(self) -> Any:
        """Return the arrays in TensorFlow: variables, as a pipeline copies tensors that it uses.

        What lies on the disk, since it is too large for memory, stays there.
        """
        if self._variables is None:
            self._variables = keras.tree.map_structure(self._variable, self.arrays)
        return self._variables

    def _variable(self, array: npt.NDArray[Any]) -> Any:
        import tensorflow as tf

        if stays_mapped(array):
            return array
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
            return tf.Variable(tf.constant(array), trainable=False)
        if not self._own:  # tf.constant would make two copies, and drop one later
            copy = empty(array.shape, array.dtype)
            copy[...] = array
            array = copy
        tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        return tf.Variable(tensor, trainable=False)


def _examples(arrays: Any) -> int:
    shapes = [part.shape for part in keras.tree.flatten(arrays)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if lengths == {0}:
        raise DataError(f"the data of Batches are empty; shapes: {shapes}.")
    if len(lengths) != 1 or None in lengths:
        raise DataError(f"inputs, targets and weights must be equally many; shapes: {shapes}.")
    return int(lengths.pop() or 0)


def _weights(y: Any, class_weight: dict[int, float], sample_weight: Any) -> Any:
    """Return the weight of each example: that of its class, times its own."""
    labels = _classes(y)
    for key in class_weight:
        if not isinstance(key, bool | int | float | np.number) or key < 0 or int(key) != key:
            raise DataError(f"the keys of class_weight are class numbers from 0; received {key!r}.")
    table = np.ones(int(max(labels.max(), *class_weight)) + 1, dtype=np.float32)
    for label, weight in class_weight.items():
        table[int(label)] = weight
    weights = table[labels]
    return weights if sample_weight is None else weights * np.asarray(sample_weight)


def _classes(y: Any) -> npt.NDArray[np.int64]:
    """Return the class of each example."""
    if keras.tree.is_nested(y) and not isinstance(y, list):
        raise DataError(f"class_weight is for one array of targets; received a {type(y).__name__}.")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)
    if labels.dtype.kind not in "biuf" or labels.size != len(labels):
        raise DataError(
            "class_weight is for targets that are one class number, or one row of one per class, "
            f"for each example; received {labels.dtype} of shape {labels.shape}."
        )
    labels = labels.reshape(-1)
    wrong = labels[(labels < 0) | (labels != np.floor(labels))]
    if len(wrong):
        raise DataError(
            f"class_weight is for targets that are whole numbers from 0; received {wrong[0]}. "
            "Give sample_weight, a weight for each example."
        )
    return labels.astype(np.int64)
