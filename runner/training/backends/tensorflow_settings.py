"""Settings of TensorFlow that decide over bits: what is not as TensorFlow has it by itself.

A default is left out, so that a checkpoint that an earlier version wrote differs in nothing. Not
here, as they change no bits of the published wheels: OMP_NUM_THREADS and MKL_NUM_THREADS, where
XLA dumps its programs, how memory is allocated, what is logged.
"""

import os
from typing import Any

import tensorflow as tf

#: lists of XLA's flags: TensorFlow's own, that turn it on, and the compiler's
_FLAGS = ("TF_XLA_FLAGS", "XLA_FLAGS")
_ON_CPU = (
    "DNNL_MAX_CPU_ISA",  # the older name of ONEDNN_MAX_CPU_ISA
    "ONEDNN_DEFAULT_FPMATH_MODE",  # sums of float32 in bfloat16
    "DNNL_DEFAULT_FPMATH_MODE",
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS",  # kernels keep weights that a step has changed
    "TF_ENABLE_AUTO_MIXED_PRECISION",
)
_ON_GPU = (
    "NVIDIA_TF32_OVERRIDE",
    "TF_CUDNN_USE_AUTOTUNE",
    "TF_CUDNN_DETERMINISTIC",
    "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT",
    "CUBLAS_WORKSPACE_CONFIG",
)
#: of Grappler: TensorFlow reports them always
_OPTIMIZER = {"disable_model_pruning": False, "disable_meta_optimizer": False}


def not_default(*, gpu: bool) -> dict[str, Any]:
    """Return the settings that are no defaults, by name. What only a GPU heeds needs one."""
    names = (*_ON_CPU, *(_ON_GPU if gpu else ()))
    options = tf.config.optimizer.get_experimental_options()
    known = {
        **{name: _flags(name) for name in _FLAGS},
        **{name: os.environ.get(name, "").strip() for name in names},
        "jit": tf.config.optimizer.get_jit(),
        "optimizer_options": [
            f"{name}={value}"
            for name, value in sorted(options.items())
            if _OPTIMIZER.get(name) != value
        ],
        "eager_functions": tf.config.functions_run_eagerly(),
    }
    found = {name: value for name, value in known.items() if value}
    if gpu and not tf.config.experimental.tensor_float_32_execution_enabled():
        found["tf32"] = False
    return found


def threads() -> int:
    """Return the threads of one operation that the environment sets, 0 if it doesn't."""
    text = os.environ.get("TF_NUM_INTRAOP_THREADS", "").strip()
    return int(text) if text.isdecimal() else 0


def _flags(name: str) -> str:
    words = set(os.environ.get(name, "").split())
    return " ".join(sorted(word for word in words if not word.startswith("--xla_dump_")))
