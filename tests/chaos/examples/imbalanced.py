"""Imbalanced classes: class weights by frequency, metrics with states, a model on disk."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.chaos.examples.common import Backup, Result, normals


def imbalanced() -> tuple[Any, Any, dict[int, float]]:
    """Examples, labels, and a weight for each class."""
    x = normals(100, 6)
    y = (x[:, :1] > 1.2).astype("uint8")
    counts = np.bincount(y[:, 0])
    return x, y, {0: 1.0 / counts[0], 1: 1.0 / counts[1]}


def network() -> Any:
    inner = [layers.Dense(16, "relu"), layers.Dropout(0.3), layers.Dense(8, "relu")]
    model = keras.Sequential([keras.Input((6,)), *inner, layers.Dense(1, "sigmoid")])
    kinds = keras.metrics
    metrics = [kinds.FalseNegatives(name="fn"), kinds.Precision(name="p"), kinds.Recall(name="r")]
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=metrics)
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(35)
    x, y, weights = imbalanced()
    model = network()
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.ModelCheckpoint("at_{epoch}.keras"), *backup()],
        validation_data=(x[:20], y[:20]),
        class_weight=weights,
    )
    return {"model": model, "history": history}
