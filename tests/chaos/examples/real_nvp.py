"""Real NVP: a flow of coupling networks in a list, its likelihood in train_step and test_step."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, normals, results


class Flow(keras.Model):
    def __init__(self, couplings: int) -> None:
        super().__init__()
        self.masks = np.array([[0, 1], [1, 0]] * (couplings // 2), dtype="float32")
        self.tracker = keras.metrics.Mean(name="loss")
        self.scales = [dense(8, 2, inputs=2, activation="tanh") for _ in range(couplings)]
        self.shifts = [dense(8, 2, inputs=2) for _ in range(couplings)]

    @property
    def metrics(self) -> Any:
        return [self.tracker]

    def call(self, x: Any) -> Any:
        volume = 0.0
        for mask, scale, shift in zip(self.masks, self.scales, self.shifts, strict=True):
            s, t = scale(x * mask) * (1 - mask), shift(x * mask) * (1 - mask)
            x = x * tf.exp(s) + t
            volume += tf.reduce_sum(s, 1)
        return x, volume

    def surprise(self, x: Any) -> Any:
        code, volume = self(x)
        return tf.reduce_mean(tf.reduce_sum(code**2, 1) / 2 - volume)

    def train_step(self, x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.surprise(x)
        descend(self.optimizer, tape, loss, self.trainable_variables)
        self.tracker.update_state(loss)
        return results(self.metrics)

    def test_step(self, x: Any) -> Any:
        self.tracker.update_state(self.surprise(x))
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(9)
    model = Flow(couplings=4)
    model.compile(keras.optimizers.Adam(1e-2))
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    arguments = {"batch_size": 16, "shuffle": False, "validation_split": 0.2, "verbose": 0}
    x = normals(100, 2) ** 3
    history = model.fit(x, epochs=4, callbacks=[stop, *backup()], **arguments)
    return {"model": model, "history": history}
