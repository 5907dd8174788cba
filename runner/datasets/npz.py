"""Images of the user's own: an npz file at any path or fsspec URL.

It holds x_train, y_train, x_test and y_test (uint8 images, whole-number labels) and, if
wished, class_names. Nothing in it is ever unpickled. What `numpy.savez` wrote on this machine is
mapped into memory and not read, until it is used; of all else there is one copy. What comes from
afar is kept in the cache of this machine.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.datasets.arrays import KEYS, Dataset, checked, empty, missing
from runner.errors import DataError, SpecError
from runner.store import cache
from runner.store.places import DataPlace


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
    return checked(path, arrays, class_names=names_in(path, arrays))


def names_in(path: str, arrays: Mapping[str, NDArray[Any]]) -> list[str] | None:
    """The class names that a file brings along, if any.

    Raises:
        DataError: they are no list of texts or numbers.
    """
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        msg = f"{path}: class_names holds {names.dtype} of the shape {names.shape}; expected a list"
        raise DataError(
            f"{msg} of texts. Save numpy.array([name of class 0, name of class 1, ...])."
        )
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return [str(name) for name in names.tolist()]


def read(path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file: the four that a data set needs, and class_names.

    Raises:
        DataError: the file is missing, damaged, or lacks one of the four.
        StoreError: the bucket it lies in failed for now.
    """
    return unpacked(path, cache.view(DataPlace(path)), KEYS)


def unpacked(path: str, content: Any, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of these names, which must be there, and class_names, of such a file.

    Args:
        path: named in errors.
        content: the bytes, or a file that is mapped.
        keys: of the arrays.

    Raises:
        DataError: as `read`.
    """
    file: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    if not zipfile.is_zipfile(file):
        msg = f"{path} is no npz file, or it was cut short. Copy or save it anew (numpy.savez)."
        raise DataError(msg)
    try:
        with zipfile.ZipFile(file) as members:
            return _arrays(path, members, content, keys)
    except DataError:
        raise
    except (ValueError, KeyError) as error:  # object arrays, and headers that are none
        msg = f"{path}: {error}. Save plain number arrays (numpy.savez), no Python objects."
        raise DataError(msg) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {error}. Copy or save it anew.") from None


def _arrays(
    path: str, members: zipfile.ZipFile, content: Any, keys: Sequence[str]
) -> dict[str, NDArray[Any]]:
    found = [name.removesuffix(".npy") for name in members.namelist()]
    if lacks := missing(found, keys):
        raise DataError(f"{path} {lacks} numpy.savez_compressed saves them.")
    wanted = [key for key in (*keys, "class_names") if key in found]
    return {key: _array(members, f"{key}.npy", content) for key in wanted}


def _array(members: zipfile.ZipFile, name: str, content: Any) -> NDArray[Any]:
    """Return one member: a view of the content where it lies there as it is, else unpacked."""
    info = members.getinfo(name)
    with members.open(info) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format
        read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
        shape, by_columns, dtype = read(member)
        count, begin = math.prod(shape), member.tell()
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        if count * dtype.itemsize != info.file_size - begin:
            raise ValueError(f"{name} is not as long as its header says")
        if info.compress_type == zipfile.ZIP_STORED:
            flat = np.frombuffer(_stored(info, content), dtype, count, begin)
        else:
            flat = empty((count,), dtype)
            target, done = flat.view(np.uint8), 0
            while piece := member.read(1 << 20):  # which compares the checksum at the end
                target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)


def _stored(info: zipfile.ZipInfo, content: Any) -> memoryview:
    """Return the bytes of a member that is not compressed, its checksum compared."""
    lengths = struct.unpack_from("<HH", content, info.header_offset + 26)  # of name and extra
    begin = info.header_offset + 30 + sum(lengths)
    data = memoryview(content)[begin : begin + info.file_size]
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return data


def size(*, path: str | None = None) -> int:
    """Return how many bytes the arrays take in memory; 0 where that takes a download."""
    try:
        with zipfile.ZipFile(Path(path or "").expanduser()) as members:
            return sum(one.file_size for one in members.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return 0
