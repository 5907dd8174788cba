"""A folder of pictures of the user's own: one sub-folder per class, at any path or fsspec URL.

Either `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone: then a share of each class,
chosen by the files' names, is the test part. Pictures in folders within a class's folder belong to
the class; what is hidden (`.ipynb_checkpoints`) counts as not there.

Pictures are read as Keras's `image_dataset_from_directory` reads them: of 16 bits the upper 8,
without transparency, of an animation the first frame. But they are turned as their EXIF says.
"""

import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import PurePosixPath
from threading import BoundedSemaphore
from typing import Annotated, Any, Literal

import numpy as np
import PIL
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runner.datasets.arrays import Dataset, checked, empty, is_large, keyed_order
from runner.errors import DataError, SpecError
from runner.store import cache, places
from runner.store.ahead import ahead
from runner.store.places import version_of
from runner.store.receiving import receiving

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

MOST_BROKEN = 5  #: pictures that an error names

_AT_ONCE = 16  #: requests for pictures from afar
_CPUS = os.cpu_count() or 2

Shape = tuple[int, int, int]  #: height, width, channels
Named = tuple[str, PurePosixPath]  #: the class of a picture, and its file below the folder


def load(
    *,
    path: str | None = None,
    image_size: Annotated[int, Ge(1)] = 32,
    channels: Literal[1, 3] = 3,
    test_split: Annotated[float, Gt(0), Lt(1)] = 0.2,
) -> Dataset:
    """Read all pictures, resized to one size.

    Args:
        path: Folder or URL.
        image_size: Height and width that every picture is resized to, in pixels.
        channels: 1 for grey, 3 for colour.
        test_split: Share of each class that is the test part, where the folder has none.

    Raises:
        SpecError: no path was given.
        MissingHereError: this machine has no such folder.
        DataError: no pictures, or some that cannot be read: they are named.
        StoreError: the bucket failed for now.
    """
    if path is None:
        msg = "the dataset 'folder' needs data.path: a folder or URL with one folder per class."
        raise SpecError(msg)
    source = _Source(path)
    train, test = source.parts(test_split)
    classes = sorted({name for name, _ in train})
    strange = sorted({name for name, _ in test} - set(classes))
    if strange:
        msg = f"{path}: classes {', '.join(strange)} are in test but not in train. Add pictures."
        raise DataError(msg)
    images = source.images({"x_train": train, "x_test": test}, (image_size, image_size, channels))
    labels = {
        "y_train": np.array([classes.index(name) for name, _ in train]),
        "y_test": np.array([classes.index(name) for name, _ in test]),
    }
    return checked(
        path,
        {**images, **labels},
        class_names=classes,
        left_out=source.left_out({file for _, file in (*train, *test)}),
    )


def size(
    *, path: str | None = None, image_size: int = 32, channels: int = 3, test_split: float = 0.2
) -> int:
    """Return how many bytes the arrays take in memory; 0 for pictures of another machine."""
    if path is None or "://" in path:
        return 0
    count = sum(map(len, _Source(path).parts(test_split))) * image_size**2 * channels
    return 0 if is_large(count) else count


class _Source:
    """The files below a folder."""

    def __init__(self, path: str) -> None:
        self._broken: dict[PurePosixPath, str] = {}  # pictures that can't be read, and why
        self._decoding = BoundedSemaphore(_CPUS)  # large ones take much memory
        self._place = places.folder_at(path)
        self._details = self._place.details()
        if list(self._details) == [""]:
            msg = f"{path} is a file, no folder. Fix data.path; data.name=npz reads npz files."
            raise DataError(msg)
        files = map(PurePosixPath, sorted(self._details))
        self._visible = [file for file in files if not any(part[0] == "." for part in file.parts)]

    def parts(self, test_split: float) -> tuple[list[Named], list[Named]]:
        """Return the training and the test pictures, by class and name."""
        pictures = [file for file in self._visible if file.suffix.lower() in ENDINGS]
        train, test = _in_parts(pictures) or _in_classes(pictures, test_split)
        for name, _ in (*train, *test):
            if name.encode(errors="ignore").decode() != name:
                raise DataError(f"{self._place.path}: the folder {name!r} is no UTF-8. Rename it.")
        if not train or not test:
            raise DataError(
                f"{self._place.path} has {len(train)} training and {len(test)} test pictures;"
                f" expected train/CLASS/* and test/CLASS/*, or CLASS/* with at least two pictures"
                f" per class ({', '.join(ENDINGS)})."
            )
        return train, test

    def left_out(self, used: set[PurePosixPath]) -> str:
        """Say which files are none of the used ones: "3 .txt, 1 .png (plot.png)"."""
        rest = [file for file in self._visible if file not in used]
        first = {file.suffix.lower(): file for file in reversed(rest)}
        counts = Counter(file.suffix.lower() for file in rest).most_common()
        return ", ".join(
            f"{count} {ending or 'without an ending'} ({first[ending]}"
            f"{', ...' if count > 1 else ''})"
            for ending, count in counts
        )

    def images(self, parts: Mapping[str, Sequence[Named]], shape: Shape) -> cache.Arrays:
        """Return the pictures of each part as one array, uint8.

        They are decoded into the cache where they come from afar, or are too many for memory.
        """
        pieces = [(part, file) for part, named in parts.items() for _, file in named]
        needs, version = len(pieces) * math.prod(shape), self._version(pieces)
        threads = _CPUS if self._place.is_here else _AT_ONCE

        def bytes_of(piece: tuple[str, PurePosixPath]) -> int:
            return int(self._details[str(piece[1])].get("size") or 0)

        if version and (is_large(needs) or not self._place.is_here):
            found = cache.arrays(
                f"pictures {version} {pieces} {shape} {PIL.__version__}",
                pieces,
                lambda piece: {piece[0]: self._picture(piece[1], shape)[np.newaxis]},
                needs=needs,
                bytes_of=bytes_of,
                threads=threads,
                is_good=lambda: not self._broken,
            )
        else:
            found = {part: empty((len(named), *shape), np.uint8) for part, named in parts.items()}
            places = chain(*found.values())
            pictures = ahead(lambda one: self._picture(one[1], shape), pieces, threads)
            with receiving(sum(map(bytes_of, pieces))) as received:
                for piece, place, picture in zip(pieces, places, pictures, strict=True):
                    place[...] = picture
                    received.add(bytes_of(piece))
        self._refuse_broken([file for _, file in pieces])
        return found

    def _version(self, pieces: Sequence[tuple[str, PurePosixPath]]) -> str:
        return version_of({str(file): self._details[str(file)] for _, file in pieces})

    def _picture(self, file: PurePosixPath, shape: Shape) -> NDArray[np.uint8]:
        content, (height, width, channels) = self._place.read(str(file)), shape
        try:
            with self._decoding, Image.open(io.BytesIO(content)) as image:
                converted = _of_8_bits(image).convert("L" if channels == 1 else "RGB")
                resized = converted.resize((width, height), Image.Resampling.BILINEAR)
        except (
            UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError,
        ) as error:  # fmt: skip
            self._broken[file] = f"{file} is no readable picture: {_brief(error)}"
            return np.zeros(shape, np.uint8)
        return np.asarray(resized, dtype=np.uint8).reshape(shape)

    def _refuse_broken(self, files: Sequence[PurePosixPath]) -> None:
        """Raise DataError where a picture could not be read."""
        broken = [self._broken[file] for file in files if file in self._broken]
        shown, more = broken[:MOST_BROKEN], len(broken) - MOST_BROKEN
        if more > 0:
            shown.append(f"and {more} more")
        if shown:
            them = "it" if len(shown) == 1 else "them"
            raise DataError(f"{self._place.path}: {'; '.join(shown)}. Fix or remove {them}.")


def _brief(error: Exception) -> str:
    """Return Pillow's words without the object that it was given."""
    return str(error).partition(" <_io.")[0]


def _of_8_bits(image: Any) -> Any:
    """Return a picture turned as its EXIF says, in a mode that Pillow converts as it should."""
    with suppress(Exception):  # EXIF that is damaged turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow would cut at 255
    if image.mode in ("I", "F"):
        raise ValueError("it holds numbers of 32 bits, whose range is unknown; save it with 8 bits")
    # what a palette says of transparency is to be dropped without a warning
    transparent = image.mode == "P" and "transparency" in image.info
    return image.convert("RGBA") if transparent else image


def _in_parts(pictures: Sequence[PurePosixPath]) -> tuple[list[Named], list[Named]] | None:
    """Return what lies in train/CLASS and in test/CLASS; None where there are no such folders."""
    deep = [file for file in pictures if len(file.parts) >= 3]
    train = [(file.parts[1], file) for file in deep if file.parts[0] == "train"]
    test = [(file.parts[1], file) for file in deep if file.parts[0] == "test"]
    return (train, test) if any(len(file.parts) == 3 for _, file in (*train, *test)) else None


def _in_classes(
    pictures: Sequence[PurePosixPath], test_split: float
) -> tuple[list[Named], list[Named]]:
    """Return what lies in CLASS, divided."""
    if all(len(file.parts) != 2 for file in pictures):
        return [], []
    named = [(file.parts[0], file) for file in pictures if len(file.parts) >= 2]
    return _divided(named, test_split)


def _divided(named: Sequence[Named], test_split: float) -> tuple[list[Named], list[Named]]:
    """Take a share of each class for the test part; at least one picture stays in each."""
    train: list[Named] = []
    test: list[Named] = []
    for name in sorted({name for name, _ in named}):
        members = [one for one in named if one[0] == name]
        count = min(max(1, round(len(members) * test_split)), len(members) - 1)
        chosen = set(keyed_order(len(members), f"test part of {name}")[:count])
        for place, one in enumerate(members):
            (test if place in chosen else train).append(one)
    return train, test
