"""Endpoint layer: targets are an input, the last layer adds the loss and keeps a metric."""

from typing import Any

import keras
from keras import layers

from tests.chaos.examples.common import Backup, Result, integers, normals


class Logistic(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
        self.drawn = keras.random.SeedGenerator(3)

    def call(self, logits: Any, targets: Any) -> Any:
        noise = 0.1 * keras.random.normal(keras.ops.shape(logits), seed=self.drawn)
        self.add_loss(self.loss_fn(targets, logits + noise))
        self.accuracy.update_state(targets, logits)
        return keras.ops.sigmoid(logits)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(40)
    inputs, targets = keras.Input((5,), name="inputs"), keras.Input((3,), name="targets")
    endpoint = Logistic()
    model = keras.Model(
        {"inputs": inputs, "targets": targets}, endpoint(layers.Dense(3)(inputs), targets)
    )
    model.compile("rmsprop")
    data = {"inputs": normals(96, 5), "targets": integers(2, 96, 3)}
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(data, epochs=3, callbacks=backup(), **arguments)
    return {"model": model, "history": history, "metric": endpoint.accuracy}
