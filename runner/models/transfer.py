"""Any network of keras.applications with a head of its own: transfer learning by name.

The architecture is built without weights; `network.pretrained()` loads them. It is called once,
for a job that has no checkpoint yet: from then on the checkpoints hold every weight, and a job
is resumed and evaluated without the file it began with.
"""

from typing import TYPE_CHECKING, Any, Literal

from runner.errors import MissingHereError, SpecError
from runner.models._arguments import Activation, Share, Size, Units
from runner.models._pretrained import Pretrained

if TYPE_CHECKING:
    import keras

Network = Literal[
    "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3",
    "EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3",
    "EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L",
    "InceptionResNetV2", "InceptionV3", "NASNetLarge", "NASNetMobile", "Xception",
    "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small",
    "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2",
    "VGG16", "VGG19",
]  # fmt: skip


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    network: Network = "InceptionV3",
    weights: str | None = "imagenet",
    weights_blake3: str | None = None,
    image_size: Size | None = 299,
    train_from: int = 0,
    head_units: tuple[Units, ...] = (1024,),
    head_activation: Activation | None = "relu",
    head_dropout: Share = 0.0,
) -> "keras.Model":
    """Return the network: float images in [-1, 1] to class probabilities (float32).

    Args:
        input_shape: Height, width and channels of an image; channels are 3.
        classes: Number of classes, the length of the softmax.
        network: A network of keras.applications.
        weights: What the job begins with: "imagenet" (Keras downloads them), a file or URL
            (.weights.h5, .h5 or .keras) that holds this network, or null for random ones.
        weights_blake3: The file's BLAKE3 hash; another file is refused. null for any.
        image_size: Images are resized to this height and width; null leaves them as they are.
        train_from: The network's layers before this number keep their weights and statistics;
            a negative number counts from the end.
        head_units: Sizes of dense layers before the softmax.
        head_activation: Activation of those dense layers, null for linear ones.
        head_dropout: Share of the pooled features dropped before the dense layers.
    """
    import keras
    from keras import layers

    if input_shape[2] != 3:
        msg = f"{network} needs images in red, green and blue; received {input_shape[2]} channels."
        raise SpecError(msg)
    size = (image_size, image_size) if image_size else input_shape[:2]
    base = _application(network)(include_top=False, weights=None, input_shape=(*size, 3))
    for layer in base.layers[:train_from]:
        layer.trainable = False
    inputs = keras.Input(input_shape, name="pixels")
    x = layers.Resizing(*size, name="resize")(inputs) if image_size else inputs
    x = base(_as_trained(network, x))
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    if head_dropout:
        x = layers.Dropout(head_dropout, name="head_dropout")(x)
    for n, units in enumerate(head_units, start=1):
        x = layers.Dense(units, activation=head_activation, name=f"head_dense{n}")(x)
    outputs = layers.Dense(classes, activation="softmax", dtype="float32", name="head")(x)
    model = keras.Model(inputs, outputs, name="network")
    if weights is not None:
        model.pretrained = Pretrained(
            base, weights, weights_blake3, lambda: _imagenet(network, base)
        )
    return model


def _application(network: str) -> Any:
    import keras

    found = getattr(keras.applications, network, None)
    if found is None:
        msg = f"Keras {keras.__version__} has no network {network}. Choose another or update Keras."
        raise MissingHereError(msg)
    return found


def _as_trained(network: str, x: Any) -> Any:
    """Bring pixels from [-1, 1] to what the network's weights were trained with."""
    import keras
    import numpy as np

    module = _application(network).__module__.rpartition(".")[2]
    preprocess = getattr(keras.applications, module).preprocess_input
    black_and_white = np.array([0.0, 255.0], "float32").reshape(1, 1, 2, 1).repeat(3, axis=3)
    expected = np.asarray(preprocess(black_and_white.copy()))
    if np.array_equal(expected, black_and_white / 127.5 - 1):
        return x  # [-1, 1], as it is
    pixels = keras.layers.Rescaling(127.5, offset=127.5, name="pixels_255")(x)
    return preprocess(pixels)


def _imagenet(network: str, base: Any) -> Any:
    return _application(network)(
        include_top=False, weights="imagenet", input_shape=base.input_shape[1:]
    )
