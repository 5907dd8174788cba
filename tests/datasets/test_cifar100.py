"""CIFAR-100 from a file, and by Keras's downloader (not called here)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras.datasets import cifar100 as keras_cifar100

from runner.datasets import cifar100
from runner.errors import DataError, StoreError


def arrays(side: int = 32) -> dict[str, Any]:
    x = np.zeros((5, side, side, 3), "uint8")
    y = np.array([[0], [99], [3], [4], [5]])
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}


def test_real_pictures(real_pictures: Path) -> None:
    dataset = cifar100.load(path=str(real_pictures))
    assert dataset.x_train.shape == (2000, 32, 32, 3)
    assert dataset.classes == 100
    assert np.bincount(dataset.y_test, minlength=100).tolist() == [5] * 100
    assert dataset.class_names == cifar100.CLASS_NAMES


def test_usual_names_where_the_file_has_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "part.npz", **arrays())
    dataset = cifar100.load(path=str(tmp_path / "part.npz"))
    assert dataset.class_names[dataset.y_train[1]] == "worm"
    assert len(set(dataset.class_names)) == 100


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", **arrays(side=64))
    with pytest.raises(DataError, match=r"images of 64 x 64 x 3; expected 32 x 32 x 3"):
        cifar100.load(path=str(tmp_path / "big.npz"))


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "l.npz", **arrays() | {"y_test": np.array([0, 1, 2, 3, 100])})
    with pytest.raises(DataError, match="y_test holds labels from 0 to 100; known are 0 to 99"):
        cifar100.load(path=str(tmp_path / "l.npz"))


def test_without_a_path_keras_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data(label_mode: str) -> Any:
        assert label_mode == "fine"
        part = arrays()
        return (part["x_train"], part["y_train"]), (part["x_test"], part["y_test"])

    monkeypatch.setattr(keras_cifar100, "load_data", load_data)
    assert cifar100.load().y_train.tolist() == [0, 99, 3, 4, 5]


def test_failed_download_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data(label_mode: str) -> Any:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras_cifar100, "load_data", load_data)
    with pytest.raises(StoreError, match=r"URL fetch failure. Try again, or set data.path"):
        cifar100.load()
