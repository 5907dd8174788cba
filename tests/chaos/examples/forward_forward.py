"""Forward-forward: each layer trains itself with an optimizer of its own, within the step."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, descend, digits, pipeline


class SelfTrained(layers.Layer):
    def __init__(self, units: int, **named: Any) -> None:
        super().__init__(**named)
        self.dense, self.relu = layers.Dense(units), layers.ReLU()
        self.optimizer = keras.optimizers.Adam(0.03)
        self.loss_metric = keras.metrics.Mean()

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.optimizer.build(self.dense.trainable_weights)

    def call(self, x: Any) -> Any:
        norm = tf.norm(x, axis=1, keepdims=True) + 1e-4
        return self.relu(self.dense(x / norm))

    def learn(self, positive: Any, negative: Any) -> Any:
        for _ in range(2):
            with tf.GradientTape() as tape:
                good = tf.reduce_mean(self(positive) ** 2, 1) - 1.5
                bad = 1.5 - tf.reduce_mean(self(negative) ** 2, 1)
                loss = tf.reduce_mean(tf.math.softplus(tf.concat([-good, -bad], 0)))
            descend(self.optimizer, tape, loss, self.dense.trainable_weights)
            self.loss_metric.update_state(loss)
        return tf.stop_gradient(self(positive)), tf.stop_gradient(self(negative))


class ForwardForward(keras.Model):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.stack = [SelfTrained(width) for width in widths]
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        for layer in self.stack:
            x = layer(x)
        return x

    def train_step(self, data: Any) -> Any:
        x, y = data
        self.counter.assign_add(1.0)
        wrong = tf.random.experimental.stateless_shuffle(y, (1, tf.cast(self.counter, tf.int32)))
        positive = tf.concat([tf.one_hot(y, 10), x], 1)
        negative = tf.concat([tf.one_hot(wrong, 10), x], 1)
        for layer in self.stack:
            positive, negative = layer.learn(positive, negative)
        return {f"loss_{n}": layer.loss_metric.result() for n, layer in enumerate(self.stack)}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(19)
    images, labels = digits()
    model = ForwardForward([12, 8])
    model.build((None, 74))
    model.compile(optimizer=keras.optimizers.Adam(0.03), loss="mse", jit_compile=False)
    data = pipeline(images.reshape(-1, 64), labels)
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    own = {f"optimizer {n}": layer.optimizer for n, layer in enumerate(model.stack)}
    means = {f"metric {n}": layer.loss_metric for n, layer in enumerate(model.stack)}
    return {"model": model, "history": history, **own, **means}
