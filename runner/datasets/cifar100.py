"""CIFAR-100: 50,000 training and 10,000 test pictures of 32 x 32 in 100 classes.

(A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.) With a path it
comes from an npz file, which may hold any part of it; without one Keras downloads it.
"""

from runner.datasets import npz
from runner.datasets.arrays import Dataset, checked
from runner.errors import DataAwayError

_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
    couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
    house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
    turtle wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES = tuple(_NAMES.split())


def load(*, path: str | None = None) -> Dataset:
    """Return the pictures with their fine labels.

    Args:
        path: npz file or URL with x_train, y_train, x_test, y_test (and class_names, if
            they are not the usual ones); null for Keras's own downloader.

    Raises:
        DataError: the file is missing, damaged or holds something else.
        DataAwayError: the bucket or the download failed for now.
    """
    if path is None:
        return _downloaded()
    arrays = npz.read(path)
    return checked(
        path,
        arrays,
        class_names=npz.names_in(path, arrays) or CLASS_NAMES,
        image_shape=(32, 32, 3),
    )


def _downloaded() -> Dataset:
    from keras.datasets import cifar100

    try:
        (x_train, y_train), (x_test, y_test) = cifar100.load_data(label_mode="fine")
    except Exception as error:
        msg = f"CIFAR-100 could not be downloaded: {error}. Try again, or set data.path to an npz."
        raise DataAwayError(msg) from error
    return checked(
        "Keras's CIFAR-100",
        {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test},
        class_names=CLASS_NAMES,
        image_shape=(32, 32, 3),
    )


def size(*, path: str | None = None) -> int:
    """Return how many bytes the arrays take in memory."""
    return npz.size(path=path) if path else 60_000 * 32 * 32 * 3
