"""Private Keras API, whatever the backend, with a test that runs before the training.

Exact resume needs what Keras keeps to itself: the building of all state before the first step,
and the global seed generator. `self_test` reports at the start, not after hours, if a version of
Keras lacks some of it. What is private to one backend is in `backends`, and what only the drop-in
needs in `frames`.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.random.seed_generator import global_seed_generator
from keras.src.trainers.data_adapters import array_slicing, get_data_adapter, is_tf_dataset
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
    can_convert_arrays,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer, PyDatasetAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.utils.module_utils import tensorflow as lazy_tensorflow
from keras.src.utils.rng_utils import get_random_seed

from runner.errors import TrainingError

try:
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
except ImportError:  # before Keras 3.13, which gave it a name
    GLOBAL_SEED_GENERATOR = "global_seed_generator"
try:
    from keras.src.trainers.data_adapters import is_grain_dataset
    from keras.src.trainers.data_adapters.grain_dataset_adapter import GrainDatasetAdapter
except ImportError:  # before Keras 3.12, which feeds none of grain's data

    class GrainDatasetAdapter:  # type: ignore[no-redef]
        """Of no data."""

    def is_grain_dataset(x: Any) -> bool:  # noqa: ARG001 - the signature of Keras's
        """Return False."""
        return False


__all__ = [  # of what is defined elsewhere
    "ArrayDataAdapter",
    "DataAdapter",
    "GrainDatasetAdapter",
    "PyDatasetAdapter",
    "TFDatasetAdapter",
    "array_slicing",
    "can_convert_arrays",
    "get_random_seed",
    "global_seed_generator",
    "is_tf_dataset",
]


def set_random_seed(seed: int) -> None:
    """Seed Keras, Python, NumPy, and TensorFlow where it is the backend or in use."""
    with tensorflow_unasked():
        keras.utils.set_random_seed(seed)


@contextmanager
def tensorflow_unasked() -> Iterator[None]:
    """Keep Keras from importing TensorFlow under another backend, only to ask whether it's there.

    Its seeding and saving do so wherever TensorFlow is installed: seconds, and a gigabyte.
    """
    if keras.config.backend() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    known, lazy_tensorflow._available = lazy_tensorflow._available, False
    try:
        yield
    finally:
        lazy_tensorflow._available = known


def numpy_batches(*, steps: int | None, **data: Any) -> Iterator[Any]:
    """Yield the batches that `evaluate` would take of such data, in their order, as arrays."""
    adapter = get_data_adapter(**{**data, "batch_size": data.get("batch_size") or 32})
    return itertools.islice(adapter.get_numpy_iterator(), steps)


def inputs_of(adapter: Any) -> Any:
    """Return what Keras's adapter for arrays has made of x, y and weights."""
    return adapter._inputs


def exchange(adapter: PyDatasetAdapter, dataset: Any) -> None:
    """Let an adapter take its batches from another PyDataset, which has them in order."""
    adapter.py_dataset, adapter.shuffle = dataset, False
    if adapter.enqueuer is not None:  # it may have batches from before: JAX builds models by one
        adapter.enqueuer.stop()
        adapter.enqueuer = OrderedEnqueuer(
            dataset,
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )


def is_python_data(data: Any) -> bool:
    """Whether it is a PyDataset, or a dataset or loader of grain."""
    return isinstance(data, keras.utils.PyDataset) or is_grain_dataset(data)


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


def distribute_batches(layout_of: Callable[[Any, Any], Any]) -> None:
    """Let Keras on JAX ask for the layout of every batch; it keeps that of an epoch's first.

    Args:
        layout_of: is given a part of a batch and Keras's layout, and returns where it goes.
    """
    from keras.src.backend.jax import distribution_lib

    give = distribution_lib.distribute_data_input
    if hasattr(give, "keras"):
        return

    def distribute(part: Any, layout: Any, *args: Any, **kwargs: Any) -> Any:
        return give(part, layout_of(part, layout), *args, **kwargs)

    distribute.keras = give  # type: ignore[attr-defined]
    distribution_lib.distribute_data_input = distribute


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


def self_test(missing: Sequence[str]) -> None:
    """Check that this Keras has what this module uses.

    Args:
        missing: what its backend lacks, as `Backend.missing` says.

    Raises:
        TrainingError: it has not; says what is missing.
    """
    used = {
        keras.Model: ("_symbolic_build", "_flatten_layers", "make_train_function", "reset_metrics"),
        keras.callbacks.CallbackList: ("on_train_begin", "on_test_batch_end"),
        ArrayDataAdapter(np.zeros((1, 1))): ("_inputs",),
    }
    of_keras = [
        f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
        for owner, names in used.items()
        for name in names
        if not hasattr(owner, name)
    ]
    if not {"_flush_futures", "_clear_futures"} & vars(keras.callbacks.CallbackList).keys():
        of_keras.append("CallbackList._flush_futures")
    refuse([*of_keras, *missing])


def refuse(missing: list[str]) -> None:
    """Raise TrainingError if something is missing that is used of Keras or its backend."""
    if missing:
        raise TrainingError(
            f"Keras {keras.__version__} works differently inside than runner knows: "
            f"{', '.join(missing)} not found. Use a Keras version that runner was tested with."
        )
