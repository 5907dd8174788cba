"""What decides over the bits of a training, fixed before it begins and remembered.

The same program gives other bits on another CPU or GPU type, with another number of intra-op
threads, other oneDNN settings, other flags of XLA or other versions. All of it is in the
fingerprint that every checkpoint carries; on a resume the differences are said, and the training
goes on.
Not in it, because it changes no bits: steps_per_execution, inter-op threads, how often
checkpoints are written.
"""

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from runner import code
from runner.errors import MissingHereError
from runner.training import backends, private
from runner.training.quiet import configured

#: of Keras, from its configuration file, the environment or the program
_KERAS_DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
#: what a fingerprint has only for a model in training: of its compilation, and of its data
OF_A_TRAINING = ("xla", "eager", "precision", "code", "replicas", "data", "data_content")
_VECTOR_SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sve", "asimd")


def apply(*, threads: int | None = None, deterministic: bool = True) -> int:
    """Fix what can be fixed. Call it before TensorFlow or JAX has run anything.

    What an earlier program of this process has set of Keras, NumPy and the backend is undone, as
    is what the import of this job's program has set: make it anew.

    Args:
        threads: of one operation; None for the number of cores that this process may use. The
            number is part of the bits: a resume elsewhere should give the number of the first run.
        deterministic: let every operation give the same result every time (costs 1.1-1.2 x a
            step on CPUs). Random operations then need a seed: keras.utils.set_random_seed.

    Returns:
        The number of threads in use.
    """
    of_file = configured()
    for name, default in _KERAS_DEFAULTS.items():
        getattr(keras.config, f"set_{name}")(of_file.get(name, default))
    keras.config.set_dtype_policy("float32")
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    backends.current().begin_anew()
    return backends.current().fix(threads=threads, deterministic=deterministic)


def devices(asked: int | Literal["all"]) -> int:
    """Return on how many devices of this machine a job is trained.

    Raises:
        MissingHereError: it asks for more than there are.
    """
    here = len(backends.current().devices())
    if asked != "all" and asked > here:
        msg = f"training.devices is {asked}, and {backends.name()} finds {here} here."
        raise MissingHereError(msg)
    return here if asked == "all" else asked


def begin_anew(
    seed: int, dtype_policy: Any = "float32", devices: int = 1
) -> AbstractContextManager[Any]:
    """Let a model that is built next be the same whatever this process did before.

    Keras's names and Keras's, Python's and NumPy's seeds begin anew.

    Returns:
        A context: what is built within it is for so many devices.
    """
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(dtype_policy)
    keras.config.set_max_epochs(None)  # this machine's KERAS_MAX_EPOCHS would end the job early
    keras.config.set_max_steps_per_epoch(None)
    private.set_random_seed(seed)
    return backends.current().distributed(devices)


def fingerprint(model: Any = None) -> dict[str, Any]:
    """Return what decides over the bits of this process, and of this model's steps."""
    found: dict[str, Any] = {
        "backend": backends.name(),
        "keras": keras.__version__,
        "cpu": cpu_name(),
        **backends.current().fingerprint(model),
        **_keras_settings(),
    }
    if model is not None:
        found["xla"] = bool(getattr(model, "jit_compile", False))
        found["eager"] = bool(getattr(model, "run_eagerly", False))
        found["precision"] = str(keras.mixed_precision.dtype_policy().name)
        if mine := code.identity():
            found["code"] = mine
    return found


def _keras_settings() -> dict[str, Any]:
    """What is not as Keras has it by itself; a default is left out, as old checkpoints lack it."""
    found = {name: getattr(keras.config, name)() for name in _KERAS_DEFAULTS}
    attention = getattr(keras.config, "is_flash_attention_enabled", lambda: None)()
    changed = {name: value for name, value in found.items() if value != _KERAS_DEFAULTS[name]}
    return changed | ({} if attention is None else {"flash_attention": attention})


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return in words what differs: ["threads 2 -> 4"].

    >>> differences({"threads": 2, "keras": "3.15.1"}, {"threads": 4, "keras": "3.15.1"})
    ['threads 2 -> 4']
    """
    saved, current = ({"backend": "tensorflow", "replicas": 1, **one} for one in (saved, current))
    keys = sorted(saved.keys() | current.keys())
    if saved["backend"] != current["backend"]:  # what only one of them has says no more
        keys = ["backend", *sorted(saved.keys() & current.keys() - {"backend"})]
    return [
        f"{_NAMES.get(key, key)} {_word(saved.get(key))} -> {_word(current.get(key))}"
        for key in keys
        if saved.get(key) != current.get(key)
    ]


_NAMES = {"data_content": "the data's content"}  #: of what its key does not say


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


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
