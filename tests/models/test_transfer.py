"""Networks of keras.applications: built without weights, loaded once, wrong files refused."""

from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest

from runner.errors import DataError, SpecError
from runner.models import transfer

SMALL: dict[str, Any] = {
    "input_shape": (32, 32, 3),
    "classes": 5,
    "network": "MobileNet",
    "image_size": None,
    "head_units": (),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNet's weights in two formats."""
    folder = tmp_path_factory.mktemp("weights")
    base = base_of(transfer.build(**SMALL, weights=None))
    base.save_weights(folder / "mobile.weights.h5")
    keras.Sequential([keras.Input((32, 32, 3)), base]).save(folder / "mobile.keras")
    return folder


def base_of(network: keras.Model) -> keras.Model:
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def test_inception_v3_as_in_the_study() -> None:
    network = transfer.build(
        input_shape=(32, 32, 3), classes=100, weights="imagenet", train_from=255
    )
    assert network.count_params() == 21_802_784 + (2048 * 1024 + 1024) + (1024 * 100 + 100)
    assert network.get_layer("resize").output.shape == (None, 299, 299, 3)
    base = base_of(network)
    assert not any(layer.trainable for layer in base.layers[:255])
    assert all(layer.trainable for layer in base.layers[255:])
    assert network.get_layer("head_dense1").trainable
    assert callable(network.pretrained)
    assert "pixels_255" not in [layer.name for layer in network.layers]


def test_known_networks_are_those_of_keras() -> None:
    there = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(get_args(transfer.Network)) == there


def test_network_sees_pixels_as_it_was_trained() -> None:
    """VGG16's weights want blue, green, red without their means; ours come as [-1, 1]."""
    network = transfer.build(**SMALL | {"network": "VGG16"}, weights=None)
    base = base_of(network)
    before = keras.Model(network.input, base._inbound_nodes[-1].input_tensors[0])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = keras.applications.vgg16.preprocess_input(pixels.copy())
    found = before.predict(pixels / 127.5 - 1, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["mobile.weights.h5", "mobile.keras"])
def test_weights_from_a_file(saved: Path, name: str) -> None:
    path = saved / name
    network = transfer.build(**SMALL, weights=path.as_uri())
    record = network.pretrained()
    assert record["weights"] == path.as_uri()
    other = transfer.build(**SMALL, weights=str(path), weights_blake3=record["blake3"])
    other.pretrained()
    for ours, theirs in zip(base_of(network).weights, base_of(other).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    fresh = transfer.build(**SMALL, weights=None)
    assert not np.array_equal(base_of(fresh).weights[0], base_of(network).weights[0])


def test_file_with_another_hash_is_refused(saved: Path) -> None:
    path = saved / "mobile.weights.h5"
    network = transfer.build(**SMALL, weights=str(path), weights_blake3="00" * 32)
    with pytest.raises(DataError, match=r"mobile.weights.h5 has the BLAKE3 .* expected 0000"):
        network.pretrained()


@pytest.mark.parametrize("name", ["mobile.weights.h5", "mobile.keras"])
def test_file_of_another_network_is_refused_with_what_differs(saved: Path, name: str) -> None:
    network = transfer.build(**SMALL | {"network": "MobileNetV2"}, weights=str(saved / name))
    words = r"holds 135 arrays .* has 260|is \(|objects could not be loaded"  # or Keras's own
    with pytest.raises(DataError, match=rf"(?s)mobile.*({words})"):
        network.pretrained()


def test_missing_and_damaged_files_are_named(saved: Path, tmp_path: Path) -> None:
    network = transfer.build(**SMALL, weights=str(tmp_path / "no.keras"))
    with pytest.raises(DataError, match=r"no\.keras: no such file"):
        network.pretrained()
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes((saved / "mobile.weights.h5").read_bytes()[:100_000])
    network = transfer.build(**SMALL, weights=str(damaged))
    with pytest.raises(DataError, match=r"damaged\.weights\.h5"):
        network.pretrained()
    network = transfer.build(**SMALL, weights="weights.bin")
    with pytest.raises(SpecError, match=r"'weights\.bin'; expected \"imagenet\" or a file"):
        network.pretrained()


def test_grey_images_are_refused() -> None:
    with pytest.raises(SpecError, match="received 1 channels"):
        transfer.build(**SMALL | {"input_shape": (32, 32, 1)})
