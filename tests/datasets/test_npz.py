"""Files of the user's own, whole and damaged, at paths and URLs."""

import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from runner.datasets import npz
from runner.errors import DataError, SpecError, StoreError

ARRAYS: dict[str, Any] = {
    "x_train": np.arange(10 * 4 * 4 * 3, dtype="uint16").astype("uint8").reshape(10, 4, 4, 3),
    "y_train": np.arange(10) % 2,
    "x_test": np.zeros((2, 4, 4, 3), "uint8"),
    "y_test": np.array([0, 1]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pictures.npz"
    np.savez_compressed(path, **ARRAYS, class_names=np.array(["cat", "dog"]))
    return path


def test_path_and_url_give_the_same(file: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/pictures.npz", file.read_bytes())
    here, there = npz.load(path=str(file)), npz.load(path="memory://pictures.npz")
    assert here.class_names == ("cat", "dog")
    assert here.digest == there.digest == npz.load(path=file.as_uri()).digest
    np.testing.assert_array_equal(here.x_train, ARRAYS["x_train"])


def test_without_a_path() -> None:
    with pytest.raises(SpecError, match=r"needs data\.path"):
        npz.load()


def test_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.npz: no such file. Fix data.path"):
        npz.load(path=str(tmp_path / "nothing.npz"))
    with pytest.raises(DataError, match=r"memory://nothing.npz: no such file"):
        npz.load(path="memory://nothing.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
def test_file_cut_short(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"pictures.npz is no npz file, or it was cut short"):
        npz.load(path=str(file))


def test_flipped_bits_inside(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(60, 300, 8):
        content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"pictures.npz is damaged"):
        npz.load(path=str(file))


def test_missing_key_names_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "half.npz"
    np.savez(path, x_train=ARRAYS["x_train"], labels=ARRAYS["y_train"])
    with pytest.raises(DataError, match=r"has no y_train, x_test, y_test. Found: x_train, labels"):
        npz.load(path=str(path))


@pytest.mark.parametrize(
    "names", [np.array("cat"), np.array([["cat"], ["dog"]]), np.array([0.5, 1.5])]
)
def test_class_names_that_are_no_list_of_texts_are_refused(names: Any, tmp_path: Path) -> None:
    np.savez(path := tmp_path / "named.npz", **ARRAYS, class_names=names)
    with pytest.raises(
        DataError, match=r"named\.npz: class_names holds .* expected a list of texts"
    ):
        npz.load(path=str(path))


def test_class_names_of_bytes_are_texts(tmp_path: Path) -> None:
    np.savez(path := tmp_path / "named.npz", **ARRAYS, class_names=np.array([b"cat", b"dog"]))
    assert npz.load(path=str(path)).class_names == ("cat", "dog")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, **ARRAYS | {"y_test": np.array([{}, []], dtype=object)})
    with pytest.raises(DataError, match=r"objects.npz: Object arrays cannot be loaded"):
        npz.load(path=str(path))


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        npz.load(path=str(tmp_path))


def test_unknown_scheme() -> None:
    with pytest.raises(DataError, match=r"warez://a.npz: Protocol not known: warez"):
        npz.load(path="warez://a.npz")


def test_bucket_that_fails_for_now_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(StoreError, match="could not be read just now: connection reset"):
        npz.load(path="memory://pictures.npz")


def anonymous_mb() -> float:
    """Memory of this process that is no file's, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
@pytest.mark.parametrize(("save", "most"), [(np.savez, 0.3), (np.savez_compressed, 1.3)])
def test_of_a_file_there_is_one_copy_and_of_one_that_is_mapped_none(
    save: Any, most: float, tmp_path: Path
) -> None:
    x = np.ones((400, 200, 200, 3), "uint8")
    save(tmp_path / "large.npz", **ARRAYS | {"x_train": x, "y_train": np.arange(400) % 2,
                                             "x_test": x[:2]})  # fmt: skip
    before = anonymous_mb()
    found = npz.load(path=str(tmp_path / "large.npz"))
    assert anonymous_mb() - before < most * x.nbytes / 1e6
    assert npz.size(path=str(tmp_path / "large.npz")) == pytest.approx(x.nbytes, rel=0.01)
    np.testing.assert_array_equal(found.x_train, x)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_forms_that_numpy_writes_are_read_as_numpy_reads_them(save: Any, tmp_path: Path) -> None:
    """Columns first, big-endian, views, without a channel."""
    x = np.arange(9 * 5 * 7, dtype=">i4").reshape(9, 5, 7) % 250
    arrays = {
        "x_train": np.asfortranarray(x),
        "y_train": (np.arange(18, dtype=">i8") % 2)[::2] + np.arange(9) % 2,
        "x_test": x[::3].astype("uint8"),
        "y_test": np.array([[0], [1], [1]], "int16"),
        "class_names": np.array(["cat", "dög"]),
    }
    save(tmp_path / "forms.npz", **arrays)
    found = npz.load(path=str(tmp_path / "forms.npz"))
    np.testing.assert_array_equal(found.x_train[..., 0], x)
    assert (found.y_train.tolist(), found.y_test.tolist()) == ([0, 1] * 4 + [0], [0, 1, 1])
    assert (found.image_shape, found.class_names) == ((5, 7, 1), ("cat", "dög"))


def test_a_flipped_bit_in_a_file_that_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    np.savez(path, **ARRAYS)
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["x_train"][1].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pictures.npz is damaged: Bad CRC-32"):
        npz.load(path=str(path))
