"""run_eagerly: noise by NumPy's and Python's generators in the step, one of the model's own."""

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, results


class Noisy(keras.Model):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rng = np.random.default_rng(3)
        self.worst: list[float] = []

    def train_step(self, data: Any) -> Any:
        x, y = data
        x = x.numpy() + 0.1 * self.rng.normal(size=x.shape).astype("float32")
        if random.random() < 0.3:
            x *= np.random.uniform(0.5, 1.0)
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted)
        descend(self.optimizer, tape, loss, self.trainable_variables)
        self.worst.append(float(tf.reduce_max(tf.abs(y - predicted))))
        self.compute_metrics(x, y, predicted)
        return results(self.metrics) | {"worst": max(self.worst[-3:])}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(49)
    images, labels = digits()
    core = dense(16, 1, inputs=64)
    model = Noisy(core.inputs, core.outputs)
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    y = labels[:, None].astype("float32")
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(images.reshape(-1, 64), y, epochs=3, callbacks=backup(), **arguments)
    return {"model": model, "history": history, "worst": model.worst}
