"""A data set is checked once, when it is loaded; from then on every part may trust it.

One that is made by hand, without `checked`, is refused for dtypes that training would cut.

Images are uint8, labels whole numbers below the number of classes, and the validation
images are chosen by a hash of seed and index: the same ones in every run of a seed, on
every machine and with every version of NumPy, and before anything is repeated.
"""

import hashlib
import math
import mmap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError, SpecError
from runner.machine.memory import BASE_BYTES, memory_bytes

Images = NDArray[np.uint8]  #: N x height x width x channels
Labels = NDArray[np.int32]  #: N
Indices = NDArray[np.int64]

KEYS = ("x_train", "y_train", "x_test", "y_test")  #: what a data set is made of
IN_MEMORY = 1 / 3  #: of the memory beyond BASE_BYTES: what is larger stays on the disk
SPARSE = 10  #: classes for each label that is there, at most: beyond, one of them is astray


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which images of the training part train, and which validate; both in rising order."""

    train: Indices
    validation: Indices


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels that keep what this module promises. Made by `checked`.

    Example:
        >>> dataset = digits.load()
        >>> split = dataset.split(0.2, seed=7)
        >>> x, y = dataset.x_train[split.train], dataset.y_train[split.train]
    """

    source: str  #: where it came from, for people
    x_train: Images = field(repr=False)
    y_train: Labels = field(repr=False)
    x_test: Images = field(repr=False)
    y_test: Labels = field(repr=False)
    class_names: tuple[str, ...]  #: one per class, in the order of the labels
    left_out: str = ""  #: what lies at the source and is no part of the data, for people

    def __post_init__(self) -> None:
        """Refuse what would become whole numbers without a word."""
        found = {name: np.asarray(getattr(self, name)) for name in KEYS}
        wrong = [
            _wrong_pixels(name, array) if name[0] == "x" else _wrong_numbers(name, array)
            for name, array in found.items()
        ]
        if any(wrong):
            raise DataError("\n  ".join([f"{self.source} cannot be used:", *filter(None, wrong)]))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @cached_property
    def digest(self) -> str:
        """BLAKE3 over all images and labels: two data sets are the same if this is."""
        hasher = blake3.blake3()
        for part in (self.x_train, self.y_train, self.x_test, self.y_test):
            hasher.update(f"{part.dtype.str}{part.shape}".encode())
            hasher.update(part.reshape(-1).view(np.uint8).data)
        return hasher.hexdigest()

    def split(self, validation_split: float, *, seed: int) -> Split:
        """Hold out a share of the training images for validation.

        Args:
            validation_split: Share in [0, 1), rounded to whole images; 0 holds out none.
            seed: Chooses the images; the same seed chooses the same ones.

        Raises:
            SpecError: one of the two parts would be empty.
        """
        total = len(self.x_train)
        held_out = round(total * validation_split)
        if not 0 <= held_out < total or (validation_split > 0 and held_out == 0):
            raise SpecError(
                f"data.validation_split {validation_split} of {total} training images leaves"
                f" {total - held_out} to train and {held_out} to validate on."
                " Choose a split that leaves at least one of each, or 0 for no validation."
            )
        order = keyed_order(total, f"validation split {seed}")
        return Split(train=np.sort(order[held_out:]), validation=np.sort(order[:held_out]))


def keyed_order(count: int, key: str) -> Indices:
    """Return 0 .. count-1 in an order that depends on `key` and `count` alone.

    Sorted by a 64-bit mix (splitmix64) of index and key. NumPy's generators may change
    between versions, and a run must not change with them.
    """
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(start)
    return np.argsort(mixed(z), kind="stable")


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of the 64-bit numbers that looks random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array with a block of memory of its own, zeroed.

    Freed, it goes back to the kernel at once, however much glibc is told to keep; and it begins
    where TensorFlow can use it as it is.
    """
    dtype, count = np.dtype(dtype), math.prod(shape)
    block = mmap.mmap(
        -1, max(1, count * dtype.itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    return np.frombuffer(block, dtype, count).reshape(shape)


def is_large(count: int) -> bool:
    """Whether so many bytes are read from the disk when they are needed, not held in memory."""
    memory = memory_bytes()
    return memory is not None and count > IN_MEMORY * max(0, memory - BASE_BYTES)


def stays_mapped(array: Any) -> bool:
    """Whether an array is a `numpy.memmap`, or a view of one, that is too large for memory."""
    return _file_of(array) is not None and is_large(array.nbytes)


def _file_of(array: Any) -> np.memmap[Any, Any] | None:
    base = array
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    return base if isinstance(base, np.memmap) else None


def rows_of(array: NDArray[Any], rows: Indices) -> NDArray[Any]:
    """Return some rows of an array in memory or of one that `stays_mapped`.

    The disk is asked for all of them at once. Page faults ask for one after the other, and for
    what lies around it: on a cloud disk that was eight times slower.
    """
    if (file := _file_of(array)) is not None and array.flags.c_contiguous:
        block: Any = file.base
        first = file.offset % mmap.ALLOCATIONGRANULARITY + array.ctypes.data - file.ctypes.data
        size = array.strides[0]
        for row in rows:
            begin = first + int(row) * size
            page = begin - begin % mmap.PAGESIZE
            block.madvise(mmap.MADV_WILLNEED, page, begin + size - page)
    found: NDArray[Any] = array[rows]
    return found


def kept(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array itself if `empty` could have made it, else such a copy.

    A file that is mapped may be changed by others; what a training needs for hours may not. What
    is too large for memory stays as it is: in the cache nobody changes it.
    """
    if stays_mapped(array):
        return array
    flags = array.flags
    if flags.writeable and flags.c_contiguous and array.ctypes.data % mmap.PAGESIZE == 0:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def checked(
    source: str,
    arrays: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    left_out: str = "",
) -> Dataset:
    """Return the data set, or say everything that is wrong with it.

    Args:
        source: File or URL, named in errors.
        arrays: x_train and x_test, images of one shape: N x height x width x channels (or
            N x height x width: grey) of whole numbers from 0 to 255; y_train and y_test, whole
            numbers from 0, or one-hot rows.
        class_names: One per class; without them classes are named by the numbers found.
        image_shape: The shape that every image must have, where that is known.
        left_out: What lies there and is not read.

    Raises:
        DataError: with all mistakes in one text.
    """
    if wrong := missing(arrays):
        raise DataError(f"{source} {wrong}")
    images = {name: _pixels(arrays[name]) for name in ("x_train", "x_test")}
    labels = {name: _flat(arrays[name]) for name in ("y_train", "y_test")}
    expected = image_shape or images["x_train"].shape[1:]
    mistakes = [
        mistake
        for (x, pixels), (y, numbers) in zip(images.items(), labels.items(), strict=True)
        for mistake in (
            _wrong_images(x, pixels, expected),
            _wrong_labels(y, numbers, pixels, class_names),
        )
    ]
    if any(mistakes):
        lines = filter(None, [f"{source} cannot be used:", *mistakes])
        raise DataError("\n  ".join(lines))
    if class_names is None:
        columns = max(_columns(arrays[name]) for name in labels)
        class_names = _numbered(source, np.concatenate([*labels.values()]), columns)
    return Dataset(
        source=source,
        class_names=tuple(map(str, class_names)),
        left_out=left_out,
        x_train=np.ascontiguousarray(images["x_train"]),
        y_train=np.ascontiguousarray(labels["y_train"], dtype=np.int32),
        x_test=np.ascontiguousarray(images["x_test"]),
        y_test=np.ascontiguousarray(labels["y_test"], dtype=np.int32),
    )


def check_file(path: str, x: Any, y: Any, class_names: Sequence[str] | None = None) -> None:
    """Refuse images and labels, the arrays `x` and `y` of one file of many, that cannot be used.

    Args:
        path: of the file, named in errors.
        x: its images.
        y: their labels.
        class_names: one per class of all files; None where they are not known.

    Raises:
        DataError: with all mistakes in one text.
    """
    images, labels = _pixels(x), _flat(y)
    mistakes = [
        _wrong_images("x", images, images.shape[1:]),
        _wrong_labels("y", labels, images, class_names),
    ]
    if any(mistakes):
        raise DataError("\n  ".join(filter(None, [f"{path} cannot be used:", *mistakes])))


def missing(found: Collection[str], keys: Sequence[str] = KEYS) -> str:
    """Say which arrays are not there, for a sentence; "" if all are."""
    lacks = ", ".join(name for name in keys if name not in found)
    there = ", ".join(map(str, found)) or "nothing"
    return lacks and f"has no {lacks}. Found: {there}. Give all of {', '.join(keys)}."


def _numbered(source: str, labels: NDArray[Any], columns: int) -> list[str]:
    """Return names for classes that have none; `columns` of one-hot rows are classes too."""
    highest, different = int(labels.max()), len(np.unique(labels))
    if highest >= SPARSE * different:
        raise DataError(
            f"{source} cannot be used:\n  the labels reach {highest}, but only {different} of"
            f" them are different: the network would have {highest + 1} outputs. Number the"
            " classes from 0 without gaps, or save class_names."
        )
    return [str(label) for label in range(max(highest + 1, columns))]


def _pixels(x: Any) -> NDArray[Any]:
    """Return images with channels; whole numbers of another kind become uint8 if all fit."""
    images = np.asarray(x)
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.dtype != np.uint8 and images.dtype.kind in "iu" and images.size:
        low, high = images.min(), images.max()
        return images.astype(np.uint8) if low >= 0 and high <= 255 else images
    return images


def _flat(y: Any) -> NDArray[Any]:
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    return labels.argmax(axis=1) if _columns(labels) else labels


def _columns(y: Any) -> int:
    """Return how many classes one-hot rows have; 0 where the labels are none."""
    labels = np.asarray(y)
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf":
        return 0
    ones = labels == 1
    one_hot = (ones | (labels == 0)).all() and (ones.sum(axis=1) == 1).all()
    return int(labels.shape[1]) if one_hot else 0


def _wrong_pixels(name: str, x: NDArray[Any]) -> str | None:
    if x.dtype == np.uint8:
        return None
    fix = "Scale to that range and save with .astype('uint8')."
    if x.dtype.kind in "iuf" and x.size:
        low, high = x.min(), x.max()
        fix = f"Its values go from {low:g} to {high:g}: save {_scaled(name, x, low, high)}."
    return f"{name} holds {x.dtype}; expected uint8 pixels from 0 to 255. {fix}"


def _scaled(name: str, x: NDArray[Any], low: Any, high: Any) -> str:
    """Return what makes pixels of images, by the range of their values."""
    of_floats = {
        (0, 1): f"({name} * 255).round()",
        (-1, 1): f"(({name} + 1) * 127.5).round()",
        (0, 255): f"{name}.round()",
    }
    fits = (to for (least, most), to in of_floats.items() if least <= low and high <= most)
    rest = f"(({name} - low) / (high - low) * 255).round()"
    if low >= 0 and 255 < high <= 65535:
        rest = f"({name} // 257)"
    scaled = next(fits, rest) if x.dtype.kind == "f" else rest
    return f"{scaled}.astype('uint8')"


def _wrong_numbers(name: str, y: NDArray[Any]) -> str | None:
    if np.issubdtype(y.dtype, np.integer):
        return None
    fix = "Save the class numbers: np.unique(labels, return_inverse=True) gives them."
    if y.dtype.kind == "f" and (y == np.floor(y)).all():
        fix = f"Save {name}.astype('int32')."
    return f"{name} holds {y.dtype}; expected whole numbers from 0. {fix}"


def _wrong_images(name: str, x: NDArray[Any], expected: tuple[int, ...]) -> str | None:
    if x.ndim != 4:
        return (
            f"{name} has the shape {x.shape}; expected images x height x width x channels."
            " Save the images as one array of that form."
        )
    if wrong := _wrong_pixels(name, x):
        return wrong
    if 0 in x.shape:
        return f"{name} is empty (shape {x.shape}). Save at least one image."
    if x.shape[1] in (1, 3) and x.shape[3] > 4 and (x.shape[1] == 3 or x.shape[2] == x.shape[3]):
        return (
            f"{name} has the shape {x.shape}, channels first; expected images x height x width x"
            f" channels. Save np.moveaxis({name}, 1, -1)."
        )
    if x.shape[1:] != expected:
        wanted, found = " x ".join(map(str, expected)), " x ".join(map(str, x.shape[1:]))
        return f"{name} has images of {found}; expected {wanted}. Resize them, or fix the file."
    return None


def _wrong_labels(
    name: str, y: NDArray[Any], x: NDArray[Any], class_names: Sequence[str] | None
) -> str | None:
    if y.ndim != 1:
        return (
            f"{name} has the shape {y.shape}; expected one label per image, or a row of zeros with"
            " a single one. Save the class numbers, flat."
        )
    if wrong := _wrong_numbers(name, y):
        return wrong
    if x.ndim and len(y) != len(x):
        return f"{name} has {len(y)} labels for {len(x)} images. Save one label per image."
    if len(y) == 0:
        return f"{name} is empty. Save one label per image."
    low, high = int(y.min()), int(y.max())
    if low < 0 or (class_names is not None and high >= len(class_names)):
        known, fix = "0 and above", "Number them so."
        if class_names is not None:
            known = f"0 to {len(class_names) - 1}, since there are {len(class_names)} class_names"
            fix = "Give each class a name, or number the labels so."
        return f"{name} holds labels from {low} to {high}; known are {known}. {fix}"
    return None
