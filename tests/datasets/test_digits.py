"""The digits that need no download."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from runner.datasets import digits
from runner.errors import SpecError


def test_parts_are_fixed_and_hold_every_digit_once() -> None:
    dataset = digits.load(image_size=8)
    assert dataset.x_train.shape == (1437, 8, 8, 1)
    assert dataset.x_test.shape == (360, 8, 8, 1)
    both = np.concatenate([dataset.x_train, dataset.x_test])[..., 0]
    original = np.rint(load_digits().images * (255 / 16)).astype("uint8")
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in original)
    assert np.bincount(dataset.y_test).min() >= 25
    assert dataset.digest == digits.load(image_size=8).digest


def test_pixels_are_repeated_and_channels_too() -> None:
    small, large = digits.load(image_size=8), digits.load(image_size=32, channels=3)
    assert large.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(large.x_test[:, 1::4, 2::4, :], small.x_test.repeat(3, axis=3))
    assert small.x_train.max() == 255


def test_path_is_refused() -> None:
    with pytest.raises(SpecError, match=r"reads no file, but data.path is 'a.npz'"):
        digits.load(path="a.npz")
