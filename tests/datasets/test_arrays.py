"""A data set is checked when it is loaded; the split is the same in every run of a seed."""

from typing import Any

import numpy as np
import pytest

from runner.datasets import arrays
from runner.datasets.arrays import Dataset, checked, keyed_order
from runner.errors import DataError, SpecError

GOOD: dict[str, Any] = {
    "x_train": np.zeros((10, 4, 5, 3), "uint8"),
    "y_train": np.arange(10) % 3,
    "x_test": np.ones((4, 4, 5, 3), "uint8"),
    "y_test": np.array([[0], [1], [2], [0]], "uint8"),
}

FIXED = [0, 2, 3, 5, 6, 4, 1, 7]


def test_good_arrays_pass_and_labels_are_flat() -> None:
    dataset = checked("a.npz", GOOD, class_names=["ape", "bee", "cow"])
    assert dataset.image_shape == (4, 5, 3)
    assert dataset.classes == 3
    assert dataset.y_test.tolist() == [0, 1, 2, 0]
    assert dataset.y_test.dtype == np.int32


def test_grey_images_get_a_channel_and_classes_their_numbers() -> None:
    grey = GOOD | {"x_train": np.zeros((10, 4, 5), "uint8"), "x_test": np.ones((4, 4, 5), "uint8")}
    dataset = checked("a.npz", grey)
    assert dataset.image_shape == (4, 5, 1)
    assert dataset.class_names == ("0", "1", "2")


def test_whole_numbers_of_another_kind_and_one_hot_rows_are_read_as_what_they_are() -> None:
    eye = np.eye(5, dtype="float32")
    found = checked(
        "a.npz",
        {
            "x_train": np.arange(10 * 60).reshape(10, 4, 5, 3) % 256,  # int64
            "y_train": eye[GOOD["y_train"]],
            "x_test": GOOD["x_test"].astype("uint16"),
            "y_test": eye[GOOD["y_test"][:, 0]],
        },
    )
    assert found.x_train.dtype == found.x_test.dtype == np.uint8
    assert found.x_train.reshape(-1)[250:260].tolist() == [*range(250, 256), 0, 1, 2, 3]
    assert found.y_train.tolist() == GOOD["y_train"].tolist()
    assert found.class_names == ("0", "1", "2", "3", "4")  # a column each, two of them unused


@pytest.mark.parametrize(
    ("x", "fix"),
    [
        (np.array([0, 0.5, 1]), "from 0 to 1: save (x_train * 255).round().astype('uint8')"),
        (np.array([-1, 0.5, 1]), "from -1 to 1: save ((x_train + 1) * 127.5).round().astype("),
        (np.array([0, 2.5, 255]), "from 0 to 255: save x_train.round().astype('uint8')"),
        (np.array([0, 2, 65535]), "from 0 to 65535: save (x_train // 257).astype('uint8')"),
        (np.array([-7, 2, 99]), "from -7 to 99: save ((x_train - low) / (high - low) * 255)"),
    ],
)
def test_other_pixels_are_refused_with_what_makes_pixels_of_them(x: Any, fix: str) -> None:
    with pytest.raises(DataError) as caught:
        checked("a.npz", GOOD | {"x_train": np.resize(x, (10, 4, 5, 3))})
    assert fix in str(caught.value)
    names: dict[str, Any] = {"x_train": np.resize(x, 30), "low": x.min(), "high": x.max()}
    made = eval(str(caught.value).partition("save ")[2].rstrip("."), names)
    assert (made.dtype, made.max() > 200) == (np.uint8, True)


@pytest.mark.parametrize("stray", [40, 10**6, 2**40])
def test_a_label_far_beyond_the_others_makes_no_huge_network(stray: int) -> None:
    labels = np.array([0, 1, 2, stray] * 2 + [0, 1])
    with pytest.raises(DataError, match=f"labels reach {stray}, but only 4 of them"):
        checked("a.npz", GOOD | {"y_train": labels})
    sparse = np.array([0, 1, 2, 39] * 2 + [0, 1])
    assert checked("a.npz", GOOD | {"y_train": sparse}).classes == 40


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x_train": np.zeros((10, 4), "uint8")}, "x_train has the shape (10, 4)"),
        ({"x_train": np.zeros((10, 4, 5, 3), "float32")}, "x_train holds float32"),
        ({"x_train": np.zeros((10, 3, 9, 9), "uint8")}, "channels first; expected images x height"),
        ({"y_train": np.eye(10)[:, :5]}, "y_train has the shape (10, 5)"),  # rows without a one
        ({"y_train": np.arange(10) % 3 * 1.0}, "Save y_train.astype('int32')"),
        ({"y_train": np.array(["ape"] * 10)}, "Save the class numbers"),
        ({"x_train": np.zeros((0, 4, 5, 3), "uint8")}, "x_train is empty"),
        ({"x_test": np.zeros((4, 5, 5, 3), "uint8")}, "x_test has images of 5 x 5 x 3; expected 4"),
        ({"y_train": np.zeros((10, 3), int)}, "y_train has the shape (10, 3)"),
        ({"y_train": np.full(10, 0.5)}, "y_train holds float64"),
        ({"y_train": np.zeros(9, int)}, "y_train has 9 labels for 10 images"),
        ({"y_test": np.array([0, 1, -1, 0])}, "y_test holds labels from -1 to 1"),
        ({"y_test": np.array([0, 1, 3, 0])}, "since there are 3 class_names. Give each"),
    ],
)
def test_wrong_arrays_are_refused_by_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        checked("data/a.npz", GOOD | changes, class_names=["ape", "bee", "cow"])
    assert str(caught.value).startswith("data/a.npz cannot be used:")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dtype"), [("x_train", "float32"), ("x_test", "float64"), ("y_train", "float32")]
)
def test_a_data_set_made_by_hand_is_refused_for_what_would_be_cut(name: str, dtype: str) -> None:
    arrays = GOOD | {"y_test": np.array([0, 1, 2, 0])}
    Dataset(source="mine", class_names=("ape", "bee", "cow"), **arrays)
    arrays[name] = arrays[name].astype(dtype)
    with pytest.raises(DataError, match=f"mine cannot be used:\n  {name} holds {dtype}; expected"):
        Dataset(source="mine", class_names=("ape", "bee", "cow"), **arrays)


def test_arrays_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match=r"mine has no x_train, y_test. Found: y_train, x_test\."):
        checked("mine", {name: GOOD[name] for name in ("y_train", "x_test")})


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DataError) as caught:
        checked("a.npz", GOOD | {"x_test": np.zeros(4), "y_train": np.zeros(10)})
    assert str(caught.value).count("\n") == 2


def test_split_parts_are_disjoint_and_whole() -> None:
    split = checked("a.npz", GOOD).split(0.2, seed=3)
    assert len(split.validation) == 2
    assert sorted([*split.train, *split.validation]) == list(range(10))
    assert split.train.tolist() == sorted(split.train)


def test_split_is_the_same_for_a_seed_and_another_for_another() -> None:
    dataset = checked("a.npz", {k: np.repeat(v, 20, axis=0) for k, v in GOOD.items()})
    one, same, other = (dataset.split(0.2, seed=seed).validation for seed in (3, 3, 4))
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()


def test_no_validation_part() -> None:
    split = checked("a.npz", GOOD).split(0.0, seed=3)
    assert split.train.tolist() == list(range(10))
    assert len(split.validation) == 0


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_split_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match=r"validation_split .* of 10 training images"):
        checked("a.npz", GOOD).split(share, seed=3)


def test_order_is_fixed_for_ever() -> None:
    """A resumed run must find the same split, whatever version of NumPy it runs with."""
    assert keyed_order(12, "digits test part").tolist() == _splitmix_order(12, "digits test part")
    assert keyed_order(8, "validation split 0").tolist() == FIXED


def _splitmix_order(count: int, key: str) -> list[int]:
    """The same order in whole Python numbers."""
    import hashlib

    mask = 2**64 - 1
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")

    def mix(index: int) -> int:
        z = ((index + 1) * 0x9E3779B97F4A7C15 + start) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    return sorted(range(count), key=mix)


def test_digest_tells_data_apart() -> None:
    one, same = checked("a.npz", GOOD), checked("b.npz", dict(GOOD))
    other = checked("a.npz", GOOD | {"y_test": np.array([0, 1, 2, 1])})
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(("memory", "large"), [(1.0e9, True), (1.3e9, False), (0.4e9, True)])
def test_what_may_be_held_is_a_third_of_what_keras_leaves(
    memory: float, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "memory_bytes", lambda: int(memory))
    assert arrays.is_large(200_000_000) is large
