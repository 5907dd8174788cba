"""Handwritten digits that come with scikit-learn: real images, nothing to download.

1,797 pictures of 8 x 8 pixels in 17 grey levels (E. Alpaydin, C. Kaynak, 1998, UCI), each
pixel repeated to the wanted size; 360 of them, always the same ones, are the test part.
"""

from typing import Literal

import numpy as np

from runner.datasets.arrays import Dataset, checked, keyed_order
from runner.errors import SpecError

_TEST_IMAGES = 360


def load(
    *,
    path: str | None = None,
    image_size: Literal[8, 16, 24, 32] = 16,
    channels: Literal[1, 3] = 1,
) -> Dataset:
    """Return the digits as uint8 images.

    Args:
        path: Must be null: the images are part of scikit-learn.
        image_size: Height and width of the images, in pixels.
        channels: 1 for grey, 3 for the same grey in red, green and blue.

    Raises:
        SpecError: a path was given.
    """
    if path is not None:
        msg = f"the dataset 'digits' reads no file, but data.path is {path!r}. Set it to null."
        raise SpecError(msg)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    repeats = image_size // 8
    images = grey.repeat(repeats, axis=1).repeat(repeats, axis=2).repeat(channels, axis=3)
    order = keyed_order(len(images), "digits test part")
    test, train = order[:_TEST_IMAGES], order[_TEST_IMAGES:]
    return checked(
        "scikit-learn's digits",
        {
            "x_train": images[train],
            "y_train": labels[train],
            "x_test": images[test],
            "y_test": labels[test],
        },
        class_names=[str(digit) for digit in range(10)],
    )
