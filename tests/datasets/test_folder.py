"""Folders of the user's own pictures."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from runner.datasets import folder
from runner.errors import DataError, SpecError


def paint(path: Path, grey: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    for part, count in (("train", 4), ("test", 2)):
        for grey, name in ((10, "cat"), (200, "dog")):
            for n in range(count):
                paint(tmp_path / part / name / f"{n}.png", grey + n)
    (tmp_path / "train" / "notes.txt").write_text("no picture")
    return tmp_path


def test_train_and_test_folders(divided: Path) -> None:
    dataset = folder.load(path=str(divided), image_size=8)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (8, 8, 3)
    assert dataset.y_train.tolist() == [0] * 4 + [1] * 4
    assert dataset.x_train[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 200, 201, 202, 203]
    assert dataset.y_test.tolist() == [0, 0, 1, 1]
    assert folder.load(path=str(divided), channels=1).image_shape == (32, 32, 1)


def test_urls_give_the_same(divided: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in divided.rglob("*.png"):
        memory.pipe_file(f"/pets/{file.relative_to(divided)}", file.read_bytes())
    there = folder.load(path="memory://pets", image_size=8)
    assert there.digest == folder.load(path=divided.as_uri(), image_size=8).digest


def test_classes_alone_are_divided_the_same_way_each_time(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for n in range(10):
            paint(tmp_path / name / f"{n}.jpg", 20 * n)
    dataset = folder.load(path=str(tmp_path), test_split=0.3)
    assert np.bincount(dataset.y_train).tolist() == [7, 7]
    assert np.bincount(dataset.y_test).tolist() == [3, 3]
    assert dataset.digest == folder.load(path=str(tmp_path), test_split=0.3).digest


def test_unreadable_picture_is_named(divided: Path) -> None:
    (divided / "train" / "cat" / "1.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"train/cat/1.png is no readable picture"):
        folder.load(path=str(divided))


def test_class_that_only_the_test_has(divided: Path) -> None:
    paint(divided / "test" / "fox" / "1.png", 3)
    with pytest.raises(DataError, match="classes fox are in test but not in train"):
        folder.load(path=str(divided))


def test_no_pictures_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 training and 0 test pictures"):
        folder.load(path=str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match=r"needs data\.path"):
        folder.load()
