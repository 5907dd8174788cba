"""Reptile: a step makes several inner steps on one task and moves the weights a part of the way."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, normals, pipeline


class Reptile(keras.Model):
    def __init__(self, network: Any, total: int) -> None:
        super().__init__()
        self.network, self.total = network, total
        self.inner = keras.optimizers.SGD(0.05)
        self.tasks = tf.Variable(0.0, trainable=False)
        self.loss_fn = keras.losses.MeanSquaredError()

    def call(self, x: Any) -> Any:
        return self.network(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        before = [tf.identity(weight) for weight in self.network.trainable_weights]
        for part in range(2):
            with tf.GradientTape() as tape:
                loss = self.loss_fn(y[part::2], self.network(x[part::2]))
            descend(self.inner, tape, loss, self.network.trainable_weights)
        rate = 0.5 * (1.0 - self.tasks / self.total)
        for weight, old in zip(self.network.trainable_weights, before, strict=True):
            weight.assign(old + rate * (weight - old))
        self.tasks.assign_add(1.0)
        return {"loss": loss, "meta_rate": rate}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(50)
    x = normals(96, 3)
    model = Reptile(dense(8, 1, inputs=3), total=18)
    model.compile()
    data = pipeline(x, x[:, :1] * x[:, 1:2])
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, "inner": model.inner, "tasks": float(model.tasks)}
