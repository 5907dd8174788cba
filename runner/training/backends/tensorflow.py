"""TensorFlow beneath Keras: variables are read by reference, steps are traced graphs."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.ops import stateful_random_ops

from runner.checkpoint.plain import Array
from runner.errors import SpecError
from runner.machine import hardware
from runner.training import inspection, private
from runner.training.backends import tensorflow_settings

# ---------------------------------------------------------------------- numerics


def begin_anew() -> None:
    """Undo what an earlier program of this process has set."""
    tf.config.run_functions_eagerly(False)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    here = context.context()
    here.optimizer_jit = None  # as set_jit has it, but no more a choice of the program's
    here._optimizer_experimental_options = {}
    if tf.distribute.has_strategy():
        tf.distribute.experimental_set_strategy(None)


def fix(*, threads: int | None, deterministic: bool) -> int:
    """Fix threads, determinism and the CPU's devices; the threads in use."""
    with suppress(RuntimeError):  # it runs already: `devices` counts what there is
        _divide_cpu()
    wished = threads or hardware.cores()
    if tf.config.threading.get_intra_op_parallelism_threads() != wished:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(wished)
        except RuntimeError:  # it runs already: what it has is what the fingerprint says
            wished = intra_op_threads()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return wished


def _divide_cpu() -> None:
    count = hardware.cpu_devices()
    if count > 1 and not tf.config.list_physical_devices("GPU"):
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


def intra_op_threads() -> int:
    """Return how many threads an operation uses."""
    set_here = int(tf.config.threading.get_intra_op_parallelism_threads())
    return set_here or tensorflow_settings.threads() or hardware.cores()


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
        found["replicas"] = replicas(model)
    return found


def accelerators() -> tuple[str, ...]:
    """Return the names of the usable GPUs."""
    return tuple(device.name for device in tf.config.list_physical_devices("GPU"))


def _gpu_name(device: Any) -> str:
    details = tf.config.experimental.get_device_details(device)
    return str(details.get("device_name", device.name))


# ---------------------------------------------------------------------- devices


_ACCUMULATION = "gradient_accumulation_steps"


class _Mirrored(tf.distribute.MirroredStrategy):  # type: ignore[misc]
    """Gives each device its share of every batch, also of one that can't be divided evenly."""

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """Divide batches as evenly as can be.

        TensorFlow gives 9 examples to 4 devices as 3, 3, 3 and none, and a BatchNormalization
        makes NaN of none.
        """
        specs = tf.nest.flatten(dataset.element_spec)
        if not all(isinstance(one, tf.TensorSpec) and one.shape.rank for one in specs):
            return super().experimental_distribute_dataset(dataset, options)
        count = self.num_replicas_in_sync

        def share(batch: Any, number: Any) -> Any:
            def rows(part: Any) -> Any:
                size = tf.shape(part, tf.int64)[0]
                return part[size * number // count : size * (number + 1) // count]

            return tf.nest.map_structure(rows, batch)

        def shares(*batch: Any) -> Any:
            batch = batch if isinstance(dataset.element_spec, tuple) else batch[0]
            return tf.data.Dataset.range(count).map(lambda number: share(batch, number))

        divided = dataset.flat_map(shares).prefetch(count)
        return self.distribute_datasets_from_function(lambda _: divided)

    def reduce(self, reduce_op: Any, value: Any, axis: Any) -> Any:
        """Take the first of several shapes, which Keras averages only to build a model by them."""

        def parts(one: Any) -> Any:
            return self.experimental_local_results(one)

        shapes = [{str(part.shape) for part in parts(one)} for one in tf.nest.flatten(value)]
        if axis is None and any(len(one) > 1 for one in shapes):
            return tf.nest.map_structure(lambda one: parts(one)[0], value)
        return super().reduce(reduce_op, value, axis)


def devices() -> tuple[Any, ...]:
    """Return the GPUs, or what the CPU is divided into."""
    return tuple(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))


def distributed(count: int) -> AbstractContextManager[Any]:
    """Return the scope of a strategy for so many devices."""
    if count == 1:
        return nullcontext()
    scope: AbstractContextManager[Any] = _Mirrored([one.name for one in devices()[:count]]).scope()
    return scope


def replicas(model: Any) -> int:
    """Return the number of the strategy's devices."""
    return int(model.distribute_strategy.num_replicas_in_sync)


def scope(model: Any) -> AbstractContextManager[Any]:
    """Return the scope of the model's strategy."""
    found: AbstractContextManager[Any] = model.distribute_strategy.scope()
    return found


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


class Reader:
    """Reads these variables, always in the same order, in one call.

    The tensors that come out share the variables' buffers. TensorFlow writes a variable in place
    only while nobody else holds its buffer, so they stay as they are.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = list(variables)
        self._read: Any = None

    @property
    def handles(self) -> list[Any]:
        """The variables' resource handles."""
        return [variable.handle for variable in self._variables]

    def read(self) -> list[Any]:
        """Return the variables' current tensors."""
        if self._read is None:  # one call of an operation for each takes four times as long
            every = tf.function(lambda: [variable.read_value() for variable in self._variables])
            self._read = every.get_concrete_function()
        return list(self._read())


def reader(model: Any, parts: Sequence[Any]) -> Reader:  # noqa: ARG001 - the seam's signature
    """Return what reads these variables by reference."""
    return Reader(parts)


def assign(values: Sequence[tuple[Any, Array]]) -> None:
    """Set variables."""
    for part, array in values:
        part.assign(array)


def is_variable(value: Any) -> bool:
    """Whether an object is a variable whose numbers can be saved: texts and handles can't."""
    if isinstance(value, keras.Variable):
        value = getattr(value, "_value", None)  # None before it is initialized
    if not isinstance(value, tf.Variable):
        return False
    return not (value.dtype in (tf.string, tf.resource, tf.variant) or value.dtype.is_quantized)


# ---------------------------------------------------------------------- fit


def prepare(model: Any, fit: Any, run: Callable[[Callable[[], bool]], bool]) -> bool:
    """Trace the step now, as the first one would: that creates all that it works with.

    Fresh and resumed runs do it alike, before any state is saved or restored: what is to be
    restored must exist, and what is baked into the graph must be the same in both.
    """
    if replicas(model) == 1:
        return run(lambda: trace(model.train_function, fit.dataset))
    _let_accumulate(model)
    spec = _element_spec(fit.dataset())  # where Keras itself has built the model for the strategy
    with model.distribute_strategy.scope():
        if spec is not None:
            model._symbolic_build(data_batch=spec)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
    return True


def _let_accumulate(model: Any) -> None:
    """Let gradients be accumulated on several devices.

    Keras applies them in a `cond`, and TensorFlow allows no merge of devices in one. It has
    another way, by collective operations, which it takes by itself only under XLA.
    """
    optimizer, strategy = getattr(model, "optimizer", None), model.distribute_strategy
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not (isinstance(strategy, _Mirrored) and getattr(inner, _ACCUMULATION, None)):
        return
    if inner is not optimizer:
        raise SpecError(
            f"{_ACCUMULATION} together with a loss scale (mixed_float16) can't run on several "
            "devices on TensorFlow: use mixed_bfloat16, or leave training.devices out."
        )
    name = "_use_merge_call"
    private.refuse([] if hasattr(strategy.extended, name) else [f"MirroredExtended.{name}"])
    strategy.extended._use_merge_call = lambda: False


def trace(function: Any, dataset: Callable[[], Any]) -> bool:
    """Trace Keras's step function for this data; its first call finds the trace."""
    called = private.tensorflow_function(function)
    found = dataset()
    if called is None or not isinstance(found, tf.data.Dataset):
        return False
    if tf.config.functions_run_eagerly():
        return False
    called.get_concrete_function(tf.data.IteratorSpec(found.element_spec))
    return True


def captured(model: Any) -> list[tuple[str, Any]]:
    """Return the variables that the traced training step reads or writes, in its own order."""
    found: list[tuple[str, Any]] = []
    for function in private.step_functions(model):
        variables = {
            id(part.handle): (variable, part)
            for variable in function.graph.variables
            for _, part in parts(variable)
        }
        handles = [id(handle) for handle in function.captured_inputs]
        order = {handle: index for index, handle in enumerate(handles)}
        ordered = sorted(variables, key=lambda handle: order.get(handle, len(order)))
        for index, handle in enumerate(ordered):
            variable, part = variables[handle]
            found.append((f"step[{index}] {part.name.split(':')[0]}", variable))
    generator = stateful_random_ops.global_generator
    if generator is not None:
        found.append(("tf.random's global generator", generator.state))
    return [one for one in found if is_variable(one[1])]


def random_state() -> Any:
    """Return where `tf.random` outside of traced functions stands; None without a seed."""
    rng = getattr(context.context(), "_rng", None)
    return rng.getstate() if rng is not None else None


def set_random_state(state: Any) -> None:
    """Let it go on from there."""
    rng = getattr(context.context(), "_rng", None)
    if rng is not None and state is not None:
        rng.setstate(state)


def step_once(model: Any, fit: Any) -> bool:
    """Run Keras's own step on the data's first batch; the caller restores all that it changes."""
    model.train_function(iter(fit.dataset()))
    return True


def _element_spec(dataset: Any) -> Any:
    spec = getattr(dataset, "element_spec", None)
    shapes = [getattr(part, "shape", None) for part in keras.tree.flatten(spec)]
    known = all(shape is not None and shape.rank is not None for shape in shapes)
    return spec if shapes and known else None


def replace_data(model: Any, fit: Any, adapter: Any) -> None:
    """Let the running fit take its batches from another adapter."""
    if isinstance(model.distribute_strategy, _Mirrored):
        adapter.least = replicas(model)
    fit.epoch_iterator.data_adapter = adapter
    replace_dataset(model, fit, adapter.get_tf_dataset())
    fit.epoch_iterator.reset()


def replace_dataset(model: Any, fit: Any, dataset: Any) -> None:
    """Let the running fit begin its next iterator on this tf.data pipeline."""
    distributed = model.distribute_strategy.experimental_distribute_dataset(dataset)
    fit.epoch_iterator._distributed_dataset = distributed


def look_through(model: Any, reader: Reader, warn: Callable[[str], None]) -> None:
    """Look through the traced step while the training goes on."""
    inspection.in_background(model, reader.handles, parts, warn)


def missing() -> list[str]:
    """Return what TensorFlow lacks: what is used of Keras here only is found by the tests."""
    variable = tf.Variable(tf.zeros(1 << 10))
    (held,) = Reader([variable]).read()
    variable.assign_add(tf.ones(1 << 10))
    unchanged = not np.asarray(held).any()
    return [] if unchanged else ["a variable that spares its buffer while somebody holds it"]
