"""TensorFlow beneath Keras: variables are read by reference, steps are traced graphs."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from runner.checkpoint.plain import Array
from runner.training import inspection, machine, pipelines
from runner.training.backends import tensorflow_settings
from runner.training.reading import Reader

# ---------------------------------------------------------------------- numerics


def fix(*, threads: int | None, deterministic: bool) -> int:
    """Fix threads and determinism; the threads in use."""
    wished = threads or machine.cores()
    if tf.config.threading.get_intra_op_parallelism_threads() != wished:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(wished)
        except RuntimeError:  # it runs already: what it has is what the fingerprint says
            wished = intra_op_threads()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return wished


def intra_op_threads() -> int:
    """Return how many threads an operation uses."""
    set_here = int(tf.config.threading.get_intra_op_parallelism_threads())
    return set_here or tensorflow_settings.threads() or machine.cores()


def fingerprint(model: Any) -> dict[str, Any]:
    """Return what decides over bits: version, threads, determinism, oneDNN, GPUs, replicas."""
    found: dict[str, Any] = {
        "tensorflow": tf.__version__,
        "threads": intra_op_threads(),
        "deterministic": bool(is_op_determinism_enabled()),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "accelerators": [_gpu_name(device) for device in tf.config.list_physical_devices("GPU")],
    }
    if isa := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        found["onednn_isa"] = isa
    found |= tensorflow_settings.not_default(gpu=bool(found["accelerators"]))
    if model is not None:
        found["replicas"] = int(model.distribute_strategy.num_replicas_in_sync)
    return found


def accelerators() -> tuple[str, ...]:
    """Return the names of the usable GPUs."""
    return tuple(device.name for device in tf.config.list_physical_devices("GPU"))


def _gpu_name(device: Any) -> str:
    details = tf.config.experimental.get_device_details(device)
    return str(details.get("device_name", device.name))


# ---------------------------------------------------------------------- variables


def parts(variable: Any) -> list[tuple[str, Any]]:
    """Return a variable's TensorFlow variables: one, or one a replica under a strategy."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    values = getattr(value, "values", None)
    if values is None or callable(values):
        return [("", value)]
    return [(f"@{replica}", part) for replica, part in enumerate(values)]


def kind(part: Any) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape."""
    return np.dtype(part.dtype.as_numpy_dtype).name, tuple(part.shape)


def reader(model: Any, parts: Sequence[Any]) -> Reader:  # noqa: ARG001 - the seam's signature
    """Return what reads these variables by reference."""
    return Reader(parts)


def assign(values: Sequence[tuple[Any, Array]]) -> None:
    """Set variables."""
    for part, array in values:
        part.assign(array)


def generator_state(value: Any) -> Any:
    """Return the state of a tf.random.Generator."""
    return value.state if isinstance(value, tf.random.Generator) else None


# ---------------------------------------------------------------------- fit


def build_everything(model: Any, fit: Any) -> None:
    """Create optimizer slots and metric variables now, as the first step would.

    Fresh and resumed runs do it alike: what is to be restored must exist, and the traced graph
    must be the same in both.
    """
    spec = _element_spec(fit)
    with model.distribute_strategy.scope():
        if spec is not None:
            model._symbolic_build(data_batch=spec)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)


def _element_spec(fit: Any) -> Any:
    dataset = fit.epoch_iterator.data_adapter.get_tf_dataset()
    spec = getattr(dataset, "element_spec", None)
    shapes = [getattr(part, "shape", None) for part in keras.tree.flatten(spec)]
    known = all(shape is not None and shape.rank is not None for shape in shapes)
    return spec if shapes and known else None


def replace_data(model: Any, fit: Any, adapter: Any) -> None:
    """Let the running fit take its batches from another adapter."""
    fit.epoch_iterator.data_adapter = adapter
    replace_dataset(model, fit, adapter.get_tf_dataset())
    fit.epoch_iterator.reset()


def replace_dataset(model: Any, fit: Any, dataset: Any) -> None:
    """Let the running fit begin its next iterator on this tf.data pipeline."""
    distributed = model.distribute_strategy.experimental_distribute_dataset(dataset)
    fit.epoch_iterator._distributed_dataset = distributed


def doubt(pipeline: Any) -> str | None:
    """Return why a pipeline can't be skipped through."""
    return pipelines.doubt(pipeline)


def look_through(model: Any, reader: Reader, warn: Callable[[str], None]) -> None:
    """Look through the traced step while the training goes on."""
    inspection.in_background(model, reader.handles, warn)


class Direct:
    """A traced function of an iterator that looks its graph up once, not at every call.

    Args:
        function: a `tf.function`. A call unlike the one before, or without an iterator, goes
            through it.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._spec: Any = None  #: of the iterator of the last call
        self._graph: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Call the function."""
        if not isinstance(iterator, tf.data.Iterator) or tf.config.functions_run_eagerly():
            return self._function(iterator)
        spec = iterator.element_spec
        if spec != self._spec:  # it is traced by this call, if need be
            self._spec, self._graph = spec, None
            return self._function(iterator)
        if self._graph is None:
            self._graph = self._function.get_concrete_function(iterator)
        return self._graph(iterator)

    def __getattr__(self, name: str) -> Any:
        """Be the function in all else."""
        return getattr(self._function, name)


def shortcut(called: Any) -> Direct | None:
    """Return a traced function that is looked up once."""
    traced = isinstance(called, tf.types.experimental.PolymorphicFunction)
    return Direct(called) if traced else None


def missing() -> list[str]:
    """Return what Keras lacks: what is used here only is found by the tests."""
    return []
