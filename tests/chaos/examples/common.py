"""What the examples share: small made data, and the types of `train`."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

#: the callbacks that a fit gets besides its own; each fit of a program names itself
Backup = Callable[..., list[Any]]
Result = dict[str, Any]

WORDS = ["the", "a", "cat", "dog", "bird", "sees", "hears", "likes", "never", "often", "old", "red"]


def digits(count: int = 96) -> tuple[Any, Any]:
    """Pictures of 8 x 8 in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images[:count, ..., None] / 16).astype("float32")
    return images, found.target[:count].astype("int32")


def normals(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def integers(high: int, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, high, shape).astype("int32")


def sentences(count: int = 96, length: int = 8) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, length)) for _ in range(count)]


def pipeline(*parts: Any, batch: int = 16, seed: int | None = None) -> Any:
    """A tf.data pipeline of these arrays: in their order, or in one that a seed gives."""
    import tensorflow as tf

    whole = tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])
    if seed is not None:
        whole = whole.shuffle(128, seed=seed, reshuffle_each_iteration=False)
    return whole.batch(batch)


def dense(*widths: int, inputs: int, **last: Any) -> Any:
    """A plain network: hidden layers of these widths, and the last one without activation."""
    layers = [keras.layers.Dense(width, "relu") for width in widths[:-1]]
    return keras.Sequential(
        [keras.Input((inputs,)), *layers, keras.layers.Dense(widths[-1], **last)]
    )


def descend(optimizer: Any, tape: Any, loss: Any, weights: Any) -> None:
    """One step of an optimizer, as a `train_step` makes it."""
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


def results(metrics: Iterable[Any]) -> Any:
    return {metric.name: metric.result() for metric in metrics}
