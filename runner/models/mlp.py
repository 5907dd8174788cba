"""A small dense network: trains in seconds, for tests and first steps."""

from typing import TYPE_CHECKING

from runner.models._arguments import Share, Units

if TYPE_CHECKING:
    import keras


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    units: tuple[Units, ...] = (64,),
    dropout: Share = 0.0,
    batch_norm: bool = False,
) -> "keras.Model":
    """Return the network: float images in [-1, 1] to class probabilities (float32).

    Args:
        input_shape: Height, width and channels of an image.
        classes: Number of classes, the length of the softmax.
        units: Sizes of the hidden ReLU layers.
        dropout: Share of values dropped after each hidden layer.
        batch_norm: Normalise each hidden layer before its ReLU.
    """
    import keras
    from keras import layers

    inputs = keras.Input(input_shape, name="pixels")
    x = layers.Flatten(name="flatten")(inputs)
    for n, size in enumerate(units, start=1):
        x = layers.Dense(size, name=f"hidden{n}")(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"norm{n}")(x)
        x = layers.ReLU(name=f"relu{n}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"drop{n}")(x)
    outputs = layers.Dense(classes, activation="softmax", dtype="float32", name="head")(x)
    return keras.Model(inputs, outputs, name="network")
