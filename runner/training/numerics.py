"""What decides over the bits of a training, fixed before it begins and remembered.

The same program gives other bits on another CPU or GPU type, with another number of intra-op
threads, other oneDNN settings or other versions. All of it is in the fingerprint that every
checkpoint carries; on a resume the differences are said, and the training goes on.
Not in it, because it changes no bits: steps_per_execution, inter-op threads, how often
checkpoints are written.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

_VECTOR_SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sve", "asimd")


def apply(*, threads: int | None = None, deterministic: bool = True) -> int:
    """Fix what can be fixed. Call it before TensorFlow has run anything.

    Args:
        threads: of one operation; None for the number of cores that this process may use. The
            number is part of the bits: a resume elsewhere should give the number of the first run.
        deterministic: let every operation give the same result every time (costs 1.1-1.2 x a
            step on CPUs). Random operations then need a seed: keras.utils.set_random_seed.

    Returns:
        The number of threads in use.
    """
    wished = threads or available_cores()
    if tf.config.threading.get_intra_op_parallelism_threads() != wished:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(wished)
        except RuntimeError:  # it runs already: what it has is what the fingerprint says
            wished = intra_op_threads()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return wished


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def intra_op_threads() -> int:
    """Return how many threads an operation uses."""
    return int(tf.config.threading.get_intra_op_parallelism_threads()) or available_cores()


def fingerprint(model: Any = None) -> dict[str, Any]:
    """Return what decides over the bits of this process, and of this model's steps."""
    found: dict[str, Any] = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "threads": intra_op_threads(),
        "deterministic": bool(is_op_determinism_enabled()),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "cpu": cpu_name(),
        "accelerators": [_gpu_name(device) for device in tf.config.list_physical_devices("GPU")],
    }
    if isa := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        found["onednn_isa"] = isa
    if model is not None:
        found["xla"] = bool(getattr(model, "jit_compile", False))
        found["eager"] = bool(getattr(model, "run_eagerly", False))
        found["precision"] = str(keras.mixed_precision.dtype_policy().name)
        found["replicas"] = int(model.distribute_strategy.num_replicas_in_sync)
    return found


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return in words what differs: ["threads 2 -> 4"].

    >>> differences({"threads": 2, "keras": "3.15.1"}, {"threads": 4, "keras": "3.15.1"})
    ['threads 2 -> 4']
    """
    keys = sorted(saved.keys() | current.keys())
    return [
        f"{key} {_word(saved.get(key))} -> {_word(current.get(key))}"
        for key in keys
        if saved.get(key) != current.get(key)
    ]


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _gpu_name(device: Any) -> str:
    details = tf.config.experimental.get_device_details(device)
    return str(details.get("device_name", device.name))


def cpu_name() -> str:
    """Return the processor's name and its widest vector set: kernels are chosen by them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    widest = next((flag for flag in _VECTOR_SETS if flag in flags), "")
    return f"{name} ({widest})" if widest else name
