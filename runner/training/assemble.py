"""The network gets its pixels in [-1, 1], rescaled exactly once, in training and prediction alike.

What is trained, saved and exported is one model from uint8 images to class probabilities:
rescaling, random changes (in training only), network. Its parts are kept beside it, so that
evaluation can send augmented images through the network without rescaling them again.

Keras's random layers take a call without `training` for training: call `model(x, training=False)`
or `model.predict(x)` for the pictures as they are.

The same arguments give the same model: initial weights, seeds and the names of all variables
do not depend on what the process did before.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.errors import SpecError
from runner.mistakes import kind_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A model and what it is made of."""

    model: "keras.Model"  #: uint8 images to class probabilities: the one that is trained
    network: "keras.Model"  #: images in [-1, 1] to class probabilities, within `model`
    augmentation: Mapping[str, Any] | None  #: as the spec has it: flip, rotation, zoom
    image_shape: tuple[int, int, int]  #: height, width, channels
    #: loads the weights that a new job begins with, and returns what to record about them; only
    #: where the network brings some, and only to be called while there is no checkpoint
    pretrained: Callable[[], Mapping[str, str]] | None = None

    @property
    def classes(self) -> int:
        """Length of the output."""
        return int(self.model.output_shape[-1])

    @property
    def doubt(self) -> str:
        """In words, why the network's output can be no probabilities; "" where nothing says so."""
        import keras

        last = self.network
        while isinstance(last, keras.Model) and getattr(last, "outputs", None):
            last = last.outputs[0]._keras_history.operation
        if getattr(last, "activation", None) is not keras.activations.linear:
            return ""
        return (
            f"the network ends with the layer {last.name}, which has no activation: its outputs are"
            ' no probabilities, and the loss is wrong. Give that layer activation="softmax".'
        )


def assemble(
    build: "Callable[..., keras.Model]",
    arguments: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    augmentation: Mapping[str, Any] | None,
    seed: int,
    dtype_policy: str = "float32",
    devices: int = 1,
) -> Assembled:
    """Build the model of a job. Keras's names and Python's and NumPy's seeds start anew.

    Args:
        build: The network's builder, as in runner/models.
        arguments: The builder's own arguments.
        image_shape: Height, width and channels.
        classes: Number of classes.
        augmentation: flip, rotation and zoom as in the spec; null for none.
        seed: Of the initial weights and of every random layer.
        dtype_policy: Keras's name of it: float32, mixed_float16, mixed_bfloat16.
        devices: How many the model is trained on.

    Raises:
        SpecError: the arguments do not fit the builder, or the network is no such network, or has
            steps, a loss or metrics of its own.
    """
    import keras

    from runner.training import numerics

    with numerics.begin_anew(seed, dtype_policy, devices):
        made = partial(build, input_shape=image_shape, classes=classes, **arguments)
        network = _network(made, classes)
        pixels = keras.Input(image_shape, dtype="uint8", name="image")
        x = rescaling()(pixels)
        for layer in augmentation_layers(augmentation, seed=seed):
            x = layer(x)
        model = keras.Model(pixels, network(x), name="runner")
    return Assembled(
        model=model,
        network=network,
        augmentation=augmentation,
        image_shape=image_shape,
        pretrained=getattr(network, "pretrained", None),
    )


def _network(build: "Callable[[], keras.Model]", classes: int) -> "keras.Model":
    import keras

    try:
        network = build()
    except (TypeError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        text = str(error).rstrip(".")
        msg = f"the network cannot be built with these arguments: {text}. Fix model.arguments."
        raise SpecError(msg) from error
    if not isinstance(network, keras.Model):
        msg = f"build(...) returned {kind_of(network)}; expected a Keras model. Fix its `return`."
        raise SpecError(msg)
    _check_own_methods(network)
    _check(network, classes)
    return network


def rescaling() -> "keras.layers.Layer":
    """Return the layer that brings pixels from 0..255 to [-1, 1], in float32."""
    from keras import layers

    return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")


def augmentation_layers(
    augmentation: Mapping[str, Any] | None, *, seed: int
) -> "Sequence[keras.layers.Layer]":
    """Return Keras's random layers: flip, rotation, zoom; without those of no effect.

    Args:
        augmentation: flip ("horizontal", "vertical", "horizontal_and_vertical" or null),
            rotation (share of a full turn, both ways), zoom (share, in and out).
        seed: Each layer draws from a generator of its own, derived from this.
    """
    import keras
    from keras import layers

    if augmentation is None:
        return []
    kinds = {
        "flip": layers.RandomFlip,
        "rotation": layers.RandomRotation,
        "zoom": layers.RandomZoom,
    }
    given = {name: augmentation[name] for name in kinds if augmentation[name]}
    chosen = [kinds[name](value, **_settings(name, seed)) for name, value in given.items()]
    if keras.config.backend() != "tensorflow":
        for layer in chosen:
            layer.supports_jit = True  # Keras says no for all backends; it is so for one
    return chosen


def _settings(name: str, seed: int) -> dict[str, Any]:
    # two layers of one seed would draw the same numbers: every flipped image turned one way
    key = hashlib.blake2b(f"augmentation {name} {seed}".encode(), digest_size=4).digest()
    return {"name": name, "dtype": "float32", "seed": int.from_bytes(key, "little") >> 1}


#: what fit, evaluate and predict call on their own model: here the one around the network
_NEVER_CALLED = (
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "make_test_function",
)


def _check_own_methods(network: Any) -> None:
    kind = type(network)
    own = [
        name
        for name in _NEVER_CALLED
        if name in getattr(network, "__dict__", ())
        or not getattr(getattr(kind, name, None), "__module__", "keras").startswith("keras.")
    ]
    if own:
        raise SpecError(
            f"the network is of the class {kind.__name__}, whose own {', '.join(own)} a job never"
            " calls: it trains a model around the network, with pixels rescaled, cross-entropy and"
            " the spec's optimizer. Let build(...) return a model without it (what the layers do"
            " in call() and add_loss() counts), or train it with"
            " model.fit(..., callbacks=[runner.BackupAndRestore(...)])."
        )


def _check(network: "keras.Model", classes: int) -> None:
    if getattr(network, "output_shape", None) != (None, classes):
        raise SpecError(
            f"the network returns {getattr(network, 'output_shape', type(network).__name__)};"
            f" expected one probability for each of {classes} classes. Fix its build(...)."
        )
