"""The dtypes that a training state may hold, and their names."""

from typing import Any

import numpy as np

#: NumPy's name -> safetensors'
NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a name, bfloat16 and the float8 kinds included.

    Raises:
        TypeError: no such dtype.
    """
    try:
        found: np.dtype[Any] = np.dtype(name)
    except TypeError:
        import ml_dtypes  # comes with TensorFlow and JAX; plain NumPy names need no import

        kind = getattr(ml_dtypes, name, None)
        if kind is None:
            raise
        found = np.dtype(kind)
    return found


def is_told_by_name(dtype: np.dtype[Any]) -> bool:
    """Whether the name says all; not so of foreign byte orders, texts and structures."""
    try:
        return dtype_of(dtype.name) == dtype
    except TypeError:
        return False
