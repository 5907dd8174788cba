"""Folders of the user's own pictures."""

import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from runner.datasets import folder
from runner.errors import DataError, MissingHereError, SpecError
from runner.store.places import DataPlace, version_of


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
    with pytest.raises(DataError, match=r"1.png is no readable picture: cannot .* file\. Fix"):
        folder.load(path=str(divided))


def test_a_folder_that_may_not_be_listed_is_named(
    divided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures would be missing without a word."""
    (divided / "lost+found").mkdir()  # of the disk that is mounted here
    closed, scandir = {divided / "train" / "cat", divided / "lost+found"}, os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) in closed:  # for root no folder is closed
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(
        MissingHereError, match=r"train/cat cannot be read: Permission denied\. Fix"
    ):
        folder.load(path=str(divided))
    closed.remove(divided / "train" / "cat")
    assert len(folder.load(path=str(divided)).x_train) == 8


def test_a_broken_link_is_named_and_a_pipe_is_not_waited_for(divided: Path) -> None:
    os.mkfifo(divided / "train" / "cat" / "pipe.png")
    assert len(folder.load(path=str(divided)).x_train) == 8
    (divided / "train" / "cat" / "link.png").symlink_to(divided / "nowhere.png")
    with pytest.raises(MissingHereError, match=r"train/cat/link\.png: no such file"):
        folder.load(path=str(divided))


def test_links_are_followed_as_if_what_they_lead_to_lay_there(
    divided: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = folder.load(path=str(divided)).digest
    away = tmp_path_factory.mktemp("away")
    for name in ("train/cat", "test", "train/dog/1.png"):
        target = (divided / name).rename(away / Path(name).name)
        (divided / name).symlink_to(target)
    assert folder.load(path=str(divided)).digest == expected
    os.mkfifo(away / "pipe")
    (away / "cat" / "pipe.png").symlink_to(away / "pipe")
    assert folder.load(path=str(divided)).digest == expected
    (away / "cat" / "back").symlink_to(divided)
    with pytest.raises(DataError, match="links to folders lead in a circle"):
        folder.load(path=str(divided))


def test_a_link_is_as_new_as_what_it_leads_to(
    divided: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is in the cache counts as long as no file that it was made of has changed."""
    name = "train/dog/1.png"
    target = (divided / name).rename(tmp_path_factory.mktemp("away") / "1.png")
    (divided / name).symlink_to(target)
    before = version_of(DataPlace(str(divided)).details())
    assert version_of(DataPlace(str(divided)).details()) == before
    os.utime(target, (1, 1))
    assert version_of(DataPlace(str(divided)).details()) != before


def test_a_class_whose_name_is_no_text_is_named(divided: Path) -> None:
    (divided / "train" / "cat").rename(divided / "train" / os.fsdecode(b"\xff"))
    with pytest.raises(DataError, match=r"the folder '\\udcff' is no UTF-8\. Rename it"):
        folder.load(path=str(divided))


def test_all_unreadable_pictures_are_named_up_to_five(divided: Path) -> None:
    broken = [f"train/cat/{n}.png" for n in range(4)] + ["train/dog/0.png", "test/dog/1.png"]
    for count, name in enumerate(broken, start=1):
        (divided / name).write_bytes(b"nothing")
        with pytest.raises(DataError) as caught:
            folder.load(path=str(divided))
        assert [one for one in broken if one in str(caught.value)] == broken[: min(count, 5)]
    assert "and 1 more. Fix or remove them." in str(caught.value)


def test_a_file_is_no_folder(divided: Path) -> None:
    np.savez(divided / "all.npz", x_train=np.zeros(3))
    for path in (str(divided / "all.npz"), (divided / "all.npz").as_uri()):
        with pytest.raises(DataError, match=r"is a file, no folder. .* data.name=npz"):
            folder.load(path=path)


def test_class_that_only_the_test_has(divided: Path) -> None:
    paint(divided / "test" / "fox" / "1.png", 3)
    with pytest.raises(DataError, match="classes fox are in test but not in train"):
        folder.load(path=str(divided))


def test_what_is_hidden_is_no_class_what_lies_deeper_is_read_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    for name in ("cat", "dog"):
        for n in range(4):
            paint(tmp_path / name / f"{n}.png", 9)
    before = folder.load(path=str(tmp_path), image_size=8)
    assert before.left_out == ""
    paint(tmp_path / ".ipynb_checkpoints" / "0-checkpoint.png", 9)
    paint(tmp_path / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", 9)
    assert folder.load(path=str(tmp_path), image_size=8).digest == before.digest
    for nested in ("dog/2026/may/1.png", "dog/2026/2.tif", "dog/3.TIFF", "fox/red/4.png"):
        paint(tmp_path / nested, 9)
    paint(tmp_path / "plot.png", 9)
    for name in ("notes.txt", "more.txt", "dog/5.heic", "dog/Makefile"):
        (tmp_path / name).write_text("")
    found = folder.load(path=str(tmp_path), image_size=8)
    assert found.class_names == ("cat", "dog", "fox")
    counts = np.bincount(found.y_train) + np.bincount(found.y_test, minlength=3)
    assert counts.tolist() == [4, 7, 1]
    assert "2 .txt (more.txt, ...)" in found.left_out
    for one in ("1 .heic (dog/5.heic)", "1 .png (plot.png)", "1 without an ending (dog/Makefile)"):
        assert one in found.left_out
    assert folder.size(path=str(tmp_path), image_size=8) == 12 * 8 * 8 * 3


def test_a_validation_folder_is_said_to_be_left_out(divided: Path) -> None:
    paint(divided / "val" / "cat" / "1.png", 9)
    paint(divided / "test" / "cat" / "deeper" / "1.png", 9)
    found = folder.load(path=str(divided))
    assert (len(found.y_train), len(found.y_test)) == (8, 5)
    assert found.left_out == "1 .txt (train/notes.txt), 1 .png (val/cat/1.png)"


def test_a_path_one_level_too_high_gives_no_classes(tmp_path: Path) -> None:
    """Train, Test or a data set's name would be the classes."""
    for name in ("Train/cat/1.png", "Train/dog/1.png", "Test/cat/2.png"):
        paint(tmp_path / name, 9)
    with pytest.raises(DataError, match="has 0 training and 0 test pictures"):
        folder.load(path=str(tmp_path))


def _colours() -> Any:
    rng = np.random.default_rng(1)
    return Image.fromarray(
        np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype("uint8")
    )


def _sixteen(path: Path) -> None:
    """Grey levels of 16 bits."""
    grey = np.asarray(_colours().convert("L")).astype("uint16") * 257
    Image.fromarray(grey).save(path)


KINDS: dict[str, Any] = {
    "grey16.png": _sixteen,
    "cmyk.jpg": lambda path: _colours().convert("CMYK").save(path),
    "palette.png": lambda path: (
        _colours().quantize(16).save(path, transparency=bytes([0, 128] + [255] * 14))
    ),
    "alpha.png": lambda path: (c := _colours()).putalpha(c.convert("L")) or c.save(path),
    "grey_alpha.png": lambda path: _colours().convert("LA").save(path),
    "bits.png": lambda path: _colours().convert("1").save(path),
    "moving.gif": lambda path: _colours().save(
        path, save_all=True, append_images=[Image.new("RGB", (32, 32))] * 3
    ),
}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_all_kinds_are_read_as_keras_reads_them(name: str, tmp_path: Path) -> None:
    """By the loader behind image_dataset_from_directory."""
    import tensorflow as tf

    for part in ("train", "test"):
        path = tmp_path / part / "a" / name
        path.parent.mkdir(parents=True)
        KINDS[name](path)
    keras_s = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False).numpy()
    mine = folder.load(path=str(tmp_path)).x_test[0]
    assert keras_s.std() > 30
    assert np.abs(mine.astype(int) - keras_s).max() <= 2
    grey = folder.load(path=str(tmp_path), channels=1).x_test[0]
    expected = np.asarray(Image.fromarray(keras_s).convert("L"))
    assert np.abs(grey[..., 0].astype(int) - expected).max() <= 2


def test_a_photograph_is_turned_as_its_camera_says_and_16_bits_of_a_tif_are_scaled(
    divided: Path,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    sideways = Image.new("RGB", (20, 20))
    sideways.paste((255, 255, 255), (0, 0, 20, 10))  # its upper half
    sideways.save(divided / "test" / "cat" / "0.jpg", exif=exif)
    _sixteen(divided / "test" / "cat" / "00.tif")
    images = folder.load(path=str(divided), image_size=20).x_test
    turned, scaled = images[0], images[2]
    assert turned[:, :8].max() < 30 < 220 < turned[:, 12:].min()
    assert 60 < scaled.mean() < 200


@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_a_tif_of_unknown_range_is_refused_by_name(kind: str, divided: Path) -> None:
    Image.fromarray(np.ones((8, 8), kind)).save(divided / "test" / "cat" / "9.tif")
    with pytest.raises(DataError, match=r"test/cat/9.tif is no readable picture: .* 32 bits"):
        folder.load(path=str(divided))


def test_no_pictures_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 training and 0 test pictures"):
        folder.load(path=str(tmp_path))
    with pytest.raises(MissingHereError, match="nowhere: no such folder"):
        folder.load(path=str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match=r"needs data\.path"):
        folder.load()
