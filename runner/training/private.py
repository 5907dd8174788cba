"""Private Keras API, whatever the backend, with a test that runs before the training.

Exact resume needs four things that Keras keeps to itself: the callback list and the epoch
iterator that `fit` works with, the epoch it begins at, the building of all state before the
first step, and the global seed generator. `self_test` says at start-up, not after hours, if a
Keras version lacks one of them. What is private to one backend is in `backends`.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator
from keras.src.trainers.data_adapters import array_slicing, is_tf_dataset
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
    can_convert_arrays,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.utils.module_utils import tensorflow as lazy_tensorflow
from keras.src.utils.rng_utils import get_random_seed

from runner.errors import TrainingError
from runner.training import backends

__all__ = [
    "ArrayDataAdapter",
    "DataAdapter",
    "Fit",
    "TFDatasetAdapter",
    "all_layers",
    "array_slicing",
    "callback_list_above",
    "called_by_fit_with",
    "can_convert_arrays",
    "epoch_iterator_above",
    "fit_in_progress",
    "flush",
    "get_random_seed",
    "global_seed_generator",
    "inputs_of",
    "is_plain",
    "is_tf_dataset",
    "seed_in_use",
    "self_test",
    "set_first_epoch",
    "set_random_seed",
    "step_functions",
    "tensorflow_function",
    "tensorflow_unasked",
]

_FIT_LOCALS = ("callbacks", "epoch_iterator", "epochs", "x", "y", "sample_weight", "class_weight")
_DEPTH = 12  # frames between one of our hooks and fit: two, and some for wrappers of the user's


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a running `model.fit` works with."""

    epoch_iterator: Any  #: yields (first step, last step, data); holds the data adapter
    epochs: int
    initial_epoch: int
    x: Any
    y: Any
    sample_weight: Any
    class_weight: Any
    batch_size: int | None
    shuffle: Any
    steps_per_epoch: int | None
    validation: Any = None  #: what it is validated on: arrays, or anything else that fit takes

    @property
    def steps(self) -> int | None:
        """Steps of an epoch, or None where nobody knows yet."""
        steps: int | None = self.epoch_iterator.num_batches
        return steps


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def callback_list_above(callback: Any) -> Any:
    """Return the keras CallbackList that is calling into `callback` right now, or None."""
    for frame in _frames():
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return owner
    return None


def fit_in_progress(callbacks: Any) -> Fit:
    """Return what the `fit` that is calling this callback list works with.

    Raises:
        TrainingError: no `fit` is calling.
    """
    for frame in _frames():
        names = frame.f_locals
        if frame.f_code.co_name != "fit" or names.get("callbacks") is not callbacks:
            continue
        if all(name in names for name in _FIT_LOCALS):
            return Fit(
                epoch_iterator=names["epoch_iterator"],
                epochs=int(names["epochs"]),
                initial_epoch=int(names.get("initial_epoch") or 0),
                x=names["x"],
                y=names["y"],
                sample_weight=names["sample_weight"],
                class_weight=names["class_weight"],
                batch_size=names.get("batch_size"),
                shuffle=names.get("shuffle"),
                steps_per_epoch=names.get("steps_per_epoch"),
                validation=names.get("val_x"),
            )
    raise TrainingError(
        "BackupAndRestore found no keras model.fit above it. It works with the fit of Keras's own "
        "models; a fit of your own must call Keras's (override train_step instead)."
    )


def is_plain(epoch_iterator: Any) -> bool:
    """Whether data are arrays or a tf.data pipeline: taking a batch runs no Python code."""
    adapter = getattr(epoch_iterator, "data_adapter", None)
    ours = (ArrayDataAdapter, TFDatasetAdapter)
    return isinstance(adapter, ours) or type(adapter).__module__.startswith("runner.")


def set_random_seed(seed: int) -> None:
    """Seed Keras, Python, NumPy, and TensorFlow where it is the backend or in use."""
    with tensorflow_unasked():
        keras.utils.set_random_seed(seed)


@contextmanager
def tensorflow_unasked() -> Iterator[None]:
    """Keep Keras from importing TensorFlow under another backend, only to ask whether it's there.

    Its seeding and saving do so wherever TensorFlow is installed: seconds, and a gigabyte.
    """
    if backends.name() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    known, lazy_tensorflow._available = lazy_tensorflow._available, False
    try:
        yield
    finally:
        lazy_tensorflow._available = known


def inputs_of(adapter: Any) -> Any:
    """Return what Keras's adapter for arrays has made of x, y and weights."""
    return adapter._inputs


def seed_in_use() -> list[Any]:
    """Return the state of Keras's global seed generator, if anything has drawn from it yet.

    To make it would draw from Python's generator, which the program may use.
    """
    generator = get_global_attribute(GLOBAL_SEED_GENERATOR)
    return [] if generator is None else [generator.state]


def flush(callbacks: Any) -> None:
    """Wait for callbacks that a list runs in threads of its own, as it does where it can."""
    if getattr(callbacks, "_async_train", False):
        named = "_flush_futures" if hasattr(callbacks, "_flush_futures") else "_clear_futures"
        getattr(callbacks, named)()  # the latter in Keras 3.10


def all_layers(model: Any) -> list[Any]:
    """Return the layers of a model, those inside others included."""
    return list(model._flatten_layers())


def set_first_epoch(model: Any, epoch: int | None) -> None:
    """Let the running fit begin at this epoch (counted from 0); None: as its arguments say."""
    model._initial_epoch = None if epoch is None else _Epoch(epoch)


class _Epoch(int):
    """Counts for fit, which takes `_initial_epoch or initial_epoch`, also if it is the first."""

    def __bool__(self) -> bool:
        return True


def step_functions(model: Any) -> list[Any]:
    """Return the traced functions of the training step; none before the first, or if eager."""
    found = []
    for cell in getattr(model.train_function, "__closure__", None) or ():
        function = cell.cell_contents
        if hasattr(function, "_list_all_concrete_functions"):
            found += function._list_all_concrete_functions()
    return found


def tensorflow_function(function: Any) -> Any:
    """Return the traced function of an iterator in Keras's train or test function, or None."""
    if not str(getattr(function, "__module__", "")).startswith("keras."):
        return None  # the program's own
    for cell in getattr(function, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "_list_all_concrete_functions"):
            return cell.cell_contents
    return None


def called_by_fit_with(callbacks: Any) -> bool:
    """Whether the caller of our caller is the `fit` that works with this callback list."""
    return sys._getframe(2).f_locals.get("callbacks") is callbacks


def epoch_iterator_above() -> Any:
    """Return the data of the `evaluate` that is calling into a callback list right now, or None."""
    for frame in _frames():
        if frame.f_code.co_name == "evaluate" and "epoch_iterator" in frame.f_locals:
            return frame.f_locals["epoch_iterator"]
    return None


def _code_of_fit() -> CodeType | None:
    """Return Keras's own fit, also where a library has put a function around it."""
    for frame in _frames():
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "fit" and module.startswith("keras.src.backend."):
            return frame.f_code
    return getattr(inspect.unwrap(keras.Model.fit), "__code__", None)


def self_test() -> None:
    """Check that this Keras has what this module uses.

    Raises:
        TrainingError: it has not; says what is missing.
    """
    missing = []
    code = _code_of_fit()
    names = (*code.co_varnames, *code.co_cellvars) if code else ()
    missing += [f"'{name}' in Model.fit" for name in _FIT_LOCALS if name not in names]
    if code is None or "_initial_epoch" not in code.co_names:
        missing.append("'_initial_epoch' in Model.fit")
    missing += [
        f"Model.{name}"
        for name in ("_symbolic_build", "make_train_function", "reset_metrics")
        if not hasattr(keras.Model, name)
    ]
    missing += [
        f"CallbackList.{name}"
        for name in ("on_train_begin", "on_test_batch_end")
        if not hasattr(keras.callbacks.CallbackList, name)
    ]
    if not {"_flush_futures", "_clear_futures"} & vars(keras.callbacks.CallbackList).keys():
        missing.append("CallbackList._flush_futures")
    if not hasattr(ArrayDataAdapter(np.zeros((1, 1))), "_inputs"):
        missing.append("ArrayDataAdapter._inputs")
    missing += backends.current().missing()
    if missing:
        raise TrainingError(
            f"Keras {keras.__version__} works differently inside than runner knows: "
            f"{', '.join(missing)} not found. Use a Keras version that runner was tested with."
        )
