"""JAX beneath Keras: state is an argument and a result of the step, and variables are shells.

During an epoch Keras hands the arrays from step to step (`_jax_state`) and leaves the variables
empty; each step donates its arrays, so whoever holds one holds a dead one. A snapshot is one
compiled copy of all arrays, dispatched behind the last step and before the next; its way to the
host begins at once and is waited for by the checkpoint's own thread.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import keras

from runner.checkpoint.plain import Array
from runner.machine import hardware
from runner.training import private

_THREADS = "PJRT_NPROC"  #: how many threads an operation has; read once, when a CPU is first used
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  #: has no effect on CPUs, which always are
_FLAGS = "XLA_FLAGS"

# ---------------------------------------------------------------------- numerics


#: of JAX, unless the environment says otherwise; a program may set them
_DEFAULTS = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}
_fixed: dict[str, str] = {}  # XLA reads its environment once: later changes count for nothing


def begin_anew() -> None:
    """Undo what an earlier program of this process has set."""
    for setting, default in _DEFAULTS.items():
        if getattr(jax.config, setting, default) != default and setting.upper() not in os.environ:
            jax.config.update(setting, default)


def fix(*, threads: int | None, deterministic: bool) -> int:
    """Fix threads and determinism, once for this process; the threads in use."""
    if not _fixed:
        if (count := hardware.cpu_devices()) > 1:
            jax.config.update("jax_num_cpu_devices", count)
        os.environ[_THREADS] = str(threads or _threads())
        flags = os.environ.get(_FLAGS, "")
        if deterministic and "xla_gpu_deterministic_ops" not in flags:
            os.environ[_FLAGS] = f"{flags} {_DETERMINISTIC}".strip()
        _fixed.update(os.environ)
    return _threads()


def _environment(name: str) -> str:
    return (_fixed or os.environ).get(name, "")


def _threads() -> int:
    for name in (_THREADS, "NPROC"):
        if (text := _environment(name)).isdecimal() and int(text):
            return int(text)
    return hardware.cores()


def fingerprint(model: Any) -> dict[str, Any]:
    """Return what decides over bits: versions, platform, threads, XLA's flags, JAX's settings."""
    devices = jax.devices()
    platform = devices[0].platform
    flags = _environment(_FLAGS).split()
    found: dict[str, Any] = {
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "platform": platform,
        "threads": _threads(),
        "deterministic": platform == "cpu" or _DETERMINISTIC in flags,
        "accelerators": [] if platform == "cpu" else [device.device_kind for device in devices],
    }
    if (count := replicas(model)) > 1:
        found["replicas"] = count
    if others := sorted(set(flags) - {_DETERMINISTIC}):
        found["xla_flags"] = " ".join(others)
    for setting, default in _DEFAULTS.items():
        value = getattr(jax.config, setting, default)
        if value != default:
            found[setting] = value
    return found


def accelerators() -> tuple[str, ...]:
    """Return the names of the usable accelerators."""
    return tuple(str(device) for device in jax.devices() if device.platform != "cpu")


# ---------------------------------------------------------------------- devices


def devices() -> tuple[Any, ...]:
    """Return the devices of JAX's platform in use."""
    return tuple(jax.devices())


def distributed(count: int) -> AbstractContextManager[Any]:
    """Distribute over so many devices from now on: Keras's fit asks for it as well."""
    found = None
    if count > 1:
        private.distribute_batches(_whole_if_uneven)
        names = keras.distribution.list_devices()[:count]
        found = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    keras.distribution.set_distribution(found)
    return nullcontext()


def _whole_if_uneven(batch: Any, layout: Any) -> Any:
    """Return where a part of a batch goes: whole to each device, if it can't be divided evenly."""
    sharding = getattr(layout, "backend_layout", layout)
    try:
        sharding.shard_shape(batch.shape)
    except ValueError:
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def replicas(model: Any) -> int:  # noqa: ARG001 - the seam's signature
    """Return the number of the distribution's devices."""
    found = keras.distribution.distribution()
    return 1 if found is None else int(found.num_model_replicas)


def scope(model: Any) -> AbstractContextManager[Any]:  # noqa: ARG001 - the seam's signature
    """Return nothing to enter: the distribution is in force."""
    return nullcontext()


# ---------------------------------------------------------------------- variables


def parts(variable: Any) -> list[tuple[str, Any]]:
    """Return the variable itself: its array is one, on however many devices."""
    return [("", variable)]


def kind(part: Any) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape, which an emptied variable still knows."""
    return str(keras.backend.standardize_dtype(part.dtype)), tuple(part.shape)


def _copies(arrays: list[Any]) -> list[Any]:
    return [jnp.copy(array) for array in arrays]


_copied = jax.jit(_copies)


class Reader:
    """Reads variables wherever their arrays are right now.

    Args:
        model: in training; its lists of variables stay as they are for the whole fit.
        variables: what is read, always in this order.
    """

    def __init__(self, model: Any, variables: Sequence[Any]) -> None:
        self._model = model
        self._variables = list(variables)
        places = {
            id(variable): (group, index)
            for group, members in _groups(model)
            for index, variable in enumerate(members)
        }
        self._places = [places.get(id(variable)) for variable in self._variables]

    def read(self) -> list[Any]:
        """Return copies of all arrays; they are being computed, and on their way to the host."""
        model = self._model
        live = {} if model._jax_state_synced else getattr(model, "_jax_state", None) or {}
        arrays = [
            live[place[0]][place[1]] if place is not None and live.get(place[0]) else variable.value
            for variable, place in zip(self._variables, self._places, strict=True)
        ]
        copies: list[Any] = _copied(arrays)
        for copy in copies:
            copy.copy_to_host_async()
        return copies


def _groups(model: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    yield "trainable_variables", model.trainable_variables
    yield "non_trainable_variables", model.non_trainable_variables
    optimizer = getattr(model, "optimizer", None)
    yield "optimizer_variables", optimizer.variables if optimizer is not None else ()
    yield "metrics_variables", model.metrics_variables


def reader(model: Any, parts: Sequence[Any]) -> Reader:
    """Return what reads these variables."""
    return Reader(model, parts)


def assign(values: Sequence[tuple[Any, Array]]) -> None:
    """Set variables to arrays of JAX's own.

    A NumPy array may be taken over without a copy, and the step that gets it donated would
    write into the bytes that were read from the bucket.
    """
    copies = _copied([jnp.asarray(array) for _, array in values])
    for (variable, _), copy in zip(values, copies, strict=True):
        variable.assign(copy)


def is_variable(value: Any) -> bool:
    """Whether an object is a variable that holds an array."""
    return isinstance(value, keras.Variable) and value._value is not None


# ---------------------------------------------------------------------- fit


def prepare(model: Any, fit: Any, run: Callable[[Callable[[], bool]], bool]) -> bool:  # noqa: ARG001 - the seam's signature
    """Make sure of the optimizer's slots; fit itself has built everything before its callbacks."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    return True


def trace(function: Any, dataset: Callable[[], Any]) -> bool:  # noqa: ARG001 - likewise
    """Return False: a step is traced by its first call."""
    return False


def captured(model: Any) -> list[tuple[str, Any]]:  # noqa: ARG001 - likewise
    """Return nothing: all that a compiled step works with is handed to it."""
    return []


def step_once(model: Any, fit: Any) -> bool:  # noqa: ARG001 - likewise
    """Return False: all state is there before the first step."""
    return False


def replace_data(model: Any, fit: Any, adapter: Any) -> None:  # noqa: ARG001 - likewise
    """Let the running fit take its batches from another adapter."""
    fit.epoch_iterator.data_adapter = adapter
    fit.epoch_iterator.reset()


def replace_dataset(model: Any, fit: Any, dataset: Any) -> None:  # noqa: ARG001 - likewise
    """Let the running fit begin its next iterator on this tf.data pipeline."""
    fit.epoch_iterator.data_adapter = private.TFDatasetAdapter(dataset)


def look_through(model: Any, reader: Reader, warn: Callable[[str], None]) -> None:
    """Say nothing: a compiled step can't remember, all it has is what fit hands to it."""


def random_state() -> Any:
    """Return None: JAX has no generator of its own."""
    return None


def set_random_state(state: Any) -> None:
    """Do nothing."""


def missing() -> list[str]:
    """Return what this Keras lacks of the JAX trainer's inner state."""
    code = getattr(inspect.unwrap(keras.Model.fit), "__code__", None)
    names = code.co_names if code else ()
    return [
        f"'{name}' in Model.fit"
        for name in ("_jax_state", "_jax_state_synced")
        if name not in names
    ]
