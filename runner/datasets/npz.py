"""Images of the user's own: an npz file at any path or fsspec URL.

It holds x_train, y_train, x_test and y_test (uint8 images, whole-number labels) and, if
wished, class_names. Nothing in it is ever unpickled.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.datasets.arrays import Dataset, checked
from runner.errors import DataError, SpecError
from runner.store import places

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(*, path: str | None = None) -> Dataset:
    """Read the file at `path`.

    Raises:
        SpecError: no path was given.
        DataError: the file is missing, damaged or of the wrong form.
        StoreError: the bucket it lies in failed for now.
    """
    if path is None:
        msg = "the dataset 'npz' needs data.path: a file or URL with x_train, y_train, ..."
        raise SpecError(msg)
    arrays = read(path)
    return checked(path, arrays, class_names=names_in(arrays))


def names_in(arrays: Mapping[str, NDArray[Any]]) -> list[str] | None:
    """The class names that a file brings along, if any."""
    names = arrays.get("class_names")
    return None if names is None else [str(name) for name in names.tolist()]


def read(path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file: the four that a data set needs, and class_names.

    Raises:
        DataError: the file is missing, damaged, or lacks one of the four.
        StoreError: the bucket it lies in failed for now.
    """
    content = io.BytesIO(places.read(path))
    if not zipfile.is_zipfile(content):
        msg = f"{path} is no npz file, or it was cut short. Copy or save it anew (numpy.savez)."
        raise DataError(msg)
    content.seek(0)
    try:
        with np.load(content, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                msg = (
                    f"{path} has no {', '.join(missing)}."
                    f" Found: {', '.join(file.files) or 'nothing'}."
                    f" Save all of {', '.join(KEYS)} with numpy.savez_compressed."
                )
                raise DataError(msg)
            wanted = [key for key in (*KEYS, "class_names") if key in file.files]
            return {key: file[key] for key in wanted}
    except DataError:
        raise
    except ValueError as error:  # object arrays, and headers that are none
        msg = f"{path}: {error}. Save plain number arrays (numpy.savez), no Python objects."
        raise DataError(msg) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        msg = f"{path} is damaged: {error}. Copy or save it anew."
        raise DataError(msg) from None
