"""Object detection: boxes and classes from one network, losses of one's own, weighted."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits


def overlap(truth: Any, boxes: Any) -> Any:
    low = ops.maximum(truth[:, :2], boxes[:, :2])
    high = ops.minimum(truth[:, 2:], boxes[:, 2:])
    common = ops.prod(ops.maximum(high - low, 0.0), axis=1)
    areas = [ops.prod(ops.maximum(b[:, 2:] - b[:, :2], 0.0), axis=1) for b in (truth, boxes)]
    return common / (areas[0] + areas[1] - common + 1e-6)


class BoxLoss(keras.losses.Loss):
    def call(self, truth: Any, boxes: Any) -> Any:
        return 1.0 - overlap(truth, boxes) + ops.mean(ops.abs(truth - boxes), axis=1)


class MeanOverlap(keras.metrics.Metric):
    def __init__(self, name: str = "overlap") -> None:
        super().__init__(name=name)
        self.best = self.add_weight(shape=(), initializer="zeros", name="best")
        self.total = self.add_weight(shape=(2,), initializer="zeros", name="total")

    def update_state(self, truth: Any, boxes: Any, sample_weight: Any = None) -> None:
        found = overlap(truth, boxes)
        self.best.assign(ops.maximum(self.best, ops.max(found)))
        count = ops.cast(ops.shape(found)[0], "float32")
        self.total.assign(self.total + ops.stack([ops.sum(found), count]))

    def result(self) -> Any:
        return self.total[0] / ops.maximum(self.total[1], 1.0)

    def reset_state(self) -> None:  # the best one stays: over all epochs
        self.total.assign(ops.zeros((2,)))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(26)
    images, labels = digits()
    corner = np.random.default_rng(1).uniform(0, 0.5, (96, 2)).astype("float32")
    inputs = keras.Input((8, 8, 1))
    h = layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(inputs))
    outputs = {"box": layers.Dense(4)(h), "label": layers.Dense(10, "softmax")(h)}
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam",
        {"box": BoxLoss(), "label": "sparse_categorical_crossentropy"},
        loss_weights={"box": 2.0, "label": 0.5},
        metrics={"box": MeanOverlap(), "label": "accuracy"},
    )
    y = {"box": np.concatenate([corner, corner + 0.4], 1), "label": labels}
    data = Batches(images, y, batch_size=16, seed=6)
    held_out = (images[:30], {name: part[:30] for name, part in y.items()})
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
