"""A folder of pictures of the user's own: one sub-folder per class, at any path or fsspec URL.

Either `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone: then a share of each class,
chosen by the files' names, is the test part.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from runner.datasets.arrays import Dataset, checked, keyed_order
from runner.errors import DataError, SpecError, StoreError
from runner.store import places

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


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
        DataError: no such folder, no pictures, or one that cannot be read: it is named.
        StoreError: the bucket failed for now.
    """
    if path is None:
        msg = "the dataset 'folder' needs data.path: a folder or URL with one folder per class."
        raise SpecError(msg)
    source = _Source(path)
    train, test = source.parts(test_split)
    classes = sorted({file.parent.name for file in train})
    strange = sorted({file.parent.name for file in test} - set(classes))
    if strange:
        msg = f"{path}: classes {', '.join(strange)} are in test but not in train. Add pictures."
        raise DataError(msg)
    return checked(
        path,
        {
            "x_train": source.pictures(train, image_size, channels),
            "y_train": np.array([classes.index(file.parent.name) for file in train]),
            "x_test": source.pictures(test, image_size, channels),
            "y_test": np.array([classes.index(file.parent.name) for file in test]),
        },
        class_names=classes,
    )


class _Source:
    """The files below a folder."""

    def __init__(self, path: str) -> None:
        import fsspec

        self._path = path
        try:
            self._files, root = fsspec.url_to_fs(path, **places.options(path))
            self._root = PurePosixPath(str(root))
            found = self._files.find(str(root))
        except (ImportError, ValueError) as error:
            msg = f"{path}: {error}. Mend data.path."
            raise DataError(msg) from None
        except OSError as error:
            msg = f"{path} could not be listed just now: {error}. Try again."
            raise StoreError(msg) from error
        pictures = (PurePosixPath(name) for name in sorted(found))
        self._pictures = [
            file.relative_to(self._root) for file in pictures if file.suffix.lower() in ENDINGS
        ]

    def parts(self, test_split: float) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
        """Return the training and the test files, relative to the folder, by class and name."""
        by_depth = {depth: [f for f in self._pictures if len(f.parts) == depth] for depth in (2, 3)}
        train = [file for file in by_depth[3] if file.parts[0] == "train"]
        test = [file for file in by_depth[3] if file.parts[0] == "test"]
        if not train and not test:
            train, test = _divided(by_depth[2], test_split)
        if not train or not test:
            msg = (
                f"{self._path} has {len(train)} training and {len(test)} test pictures;"
                f" expected train/CLASS/* and test/CLASS/*, or CLASS/* with at least two pictures"
                f" per class ({', '.join(ENDINGS)})."
            )
            raise DataError(msg)
        return train, test

    def pictures(
        self, files: Sequence[PurePosixPath], image_size: int, channels: int
    ) -> NDArray[np.uint8]:
        """Return the pictures as one array."""
        pictures = [self._picture(file, image_size, channels) for file in files]
        return np.stack(pictures).reshape(len(files), image_size, image_size, channels)

    def _picture(self, file: PurePosixPath, image_size: int, channels: int) -> NDArray[Any]:
        try:
            content = self._files.cat_file(str(self._root / file))
        except OSError as error:
            msg = f"{self._path}: {file} could not be read just now: {error}. Try again."
            raise StoreError(msg) from error
        try:
            with Image.open(io.BytesIO(content)) as image:
                converted = image.convert("L" if channels == 1 else "RGB")
                resized = converted.resize((image_size, image_size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            msg = f"{self._path}: {file} is no readable picture: {error}. Mend or remove it."
            raise DataError(msg) from None
        return np.asarray(resized, dtype=np.uint8)


def _divided(
    files: Sequence[PurePosixPath], test_split: float
) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Take a share of each class for the test part; at least one picture stays in each."""
    train: list[PurePosixPath] = []
    test: list[PurePosixPath] = []
    for members in _classes(files):
        count = min(max(1, round(len(members) * test_split)), len(members) - 1)
        chosen = set(keyed_order(len(members), f"test part of {members[0].parent.name}")[:count])
        for place, file in enumerate(members):
            (test if place in chosen else train).append(file)
    return train, test


def _classes(files: Sequence[PurePosixPath]) -> Iterator[list[PurePosixPath]]:
    for name in sorted({file.parent.name for file in files}):
        yield [file for file in files if file.parent.name == name]
