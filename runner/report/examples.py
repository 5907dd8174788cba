"""The test images of a job, where they can be read here without TensorFlow.

Only data on this machine is opened, and only if its labels are those that were evaluated; in
any other case the report says why it shows no images. Keras, which may download, stays out:
while a data set is read, importing it fails.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner import registry
from runner.report.collect import Measured, Run, clean

LARGEST = 2 * 1024**3  #: bytes of a data file that is opened for a few pictures
MOST = 20_000  #: files of a folder that is opened
SHOWN = 8  #: pictures in a row
HEIGHT = 64  #: pixels of each, about
GAP = 4  #: pixels between two

Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class TestPart:
    """What a data set brings for the pictures of a report."""

    __test__ = False  # pytest takes it for one

    images: Images = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    class_names: tuple[str, ...]


class Library:
    """Data sets by the part of a spec that names them, each read once; `closed`: why none is."""

    def __init__(self, closed: str = "") -> None:
        self._closed = closed
        self._known: dict[str, TestPart | str] = {}

    def test_part(self, run: Run) -> TestPart | str:
        """Return the images on which a run was evaluated, or why there are none to show."""
        if run.spec.get("program"):
            return ""  # which has no pictures that anyone knows of
        data = run.spec.get("data")
        if not isinstance(data, dict) or run.measured is None:
            return "its spec names no data"
        if self._closed:
            return self._closed
        key = json.dumps([data.get(name) for name in ("name", "path", "arguments")], default=str)
        if key not in self._known:
            self._known[key] = _load(data)
        part = self._known[key]
        labels = run.measured.labels
        if isinstance(part, str) or labels is None or np.array_equal(part.labels, labels):
            return part
        return "the data found here is not the data that was evaluated"


def _load(data: Mapping[str, Any]) -> TestPart | str:
    arguments = data.get("arguments")
    path = data.get("path")
    try:
        if isinstance(path, str) and (why := _out_of_reach(path)):
            return why
        with _without_keras():
            load = registry.get("datasets", str(data.get("name")))
            found = load(path=path, **(arguments if isinstance(arguments, dict) else {}))
        names = tuple(clean(name, limit=80) for name in found.class_names)
        if found.x_test.dtype != np.uint8 or found.x_test.ndim != 4:
            return f"its data are no pictures: {found.x_test.dtype}, {found.x_test.shape}"
        return TestPart(images=found.x_test, labels=found.y_test, class_names=names)
    except ImportError as error:
        return f"reading its data takes {error.name or 'a package'}, which a report does without"
    except Exception as error:  # noqa: BLE001 - a data set may be anyone's; a report goes on
        return f"its data cannot be read here: {error}"


def _out_of_reach(path: str) -> str | None:
    """Return why a path is not opened: a page must not take minutes, or fetch what a spec says."""
    place = Path(path)
    if "://" in path or "::" in path:
        return "its data lies elsewhere, and only data on this machine is opened"
    if not place.is_file() and not place.is_dir():
        return "its data is not on this machine"
    files = list(islice(_below(place), MOST + 1)) if place.is_dir() else [place]
    if len(files) > MOST or sum(file.stat().st_size for file in files) > LARGEST:
        return "its data is too large to be opened for a few pictures"
    return None


def _below(place: Path) -> Iterator[Path]:
    """Yield a folder's files, as far as data sets are read: through links, too."""
    for folder, _, names in os.walk(place, followlinks=True):
        yield from (Path(folder, name) for name in names)


@contextmanager
def _without_keras() -> Iterator[None]:
    """Let `import keras` fail where it is not loaded already."""
    barred = [name for name in ("keras", "tensorflow") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(barred))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in barred:
            del sys.modules[name]


def mistaken(measured: Measured, part: TestPart, true: int, taken_for: int | None) -> Images:
    """Return some images of a class that were taken for another one, or for any other."""
    if measured.labels is None or measured.predicted is None:
        return part.images[:0]
    wrong = measured.predicted != true if taken_for is None else measured.predicted == taken_for
    places = np.flatnonzero((measured.labels == true) & wrong)
    return part.images[places[places < len(part.images)][:SHOWN]]


def strip(images: Images) -> bytes:
    """Return a few images side by side as a PNG."""
    height, width, channels = images.shape[1:]
    scale = max(1, HEIGHT // height) if height <= HEIGHT else HEIGHT / height
    size = max(1, round(width * scale)), round(height * scale)
    row = Image.new("RGBA", (len(images) * (size[0] + GAP) - GAP, size[1]))
    for place, image in enumerate(images):
        picture = Image.fromarray(image[..., :3] if channels >= 3 else image[..., 0])
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        row.paste(picture.convert("RGB").resize(size, how), (place * (size[0] + GAP), 0))
    content = io.BytesIO()
    row.save(content, format="png")
    return content.getvalue()
