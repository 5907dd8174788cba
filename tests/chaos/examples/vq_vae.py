"""VQ-VAE: a code book in a layer that adds a loss, trained by a model around the model."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, results


class Quantizer(layers.Layer):
    def __init__(self, codes: int, width: int, **named: Any) -> None:
        super().__init__(**named)
        self.codes = codes
        self.book = self.add_weight((width, codes), initializer="uniform", name="book")

    def call(self, x: Any) -> Any:
        distances = tf.reduce_sum(x**2, 1, keepdims=True) - 2 * x @ self.book
        distances += tf.reduce_sum(self.book**2, 0)
        chosen = tf.one_hot(tf.argmin(distances, 1), self.codes)
        quantized = tf.matmul(chosen, self.book, transpose_b=True)
        commitment = tf.reduce_mean((tf.stop_gradient(quantized) - x) ** 2)
        self.add_loss(0.25 * commitment + tf.reduce_mean((quantized - tf.stop_gradient(x)) ** 2))
        return x + tf.stop_gradient(quantized - x)


class Trainer(keras.Model):
    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance
        parts = [dense(16, 4, inputs=64), Quantizer(8, 4), dense(16, 64, inputs=4)]
        self.vqvae = keras.Sequential([keras.Input((64,)), *parts])
        self.total = keras.metrics.Mean(name="loss")
        self.vq_loss = keras.metrics.Mean(name="vqvae_loss")

    @property
    def metrics(self) -> Any:
        return [self.total, self.vq_loss]

    def train_step(self, x: Any) -> Any:
        with tf.GradientTape() as tape:
            rebuilt = self.vqvae(x)
            loss = tf.reduce_mean((x - rebuilt) ** 2) / self.variance + sum(self.vqvae.losses)
        descend(self.optimizer, tape, loss, self.vqvae.trainable_variables)
        self.total.update_state(loss)
        self.vq_loss.update_state(sum(self.vqvae.losses))
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(6)
    x = digits()[0].reshape(-1, 64)
    model = Trainer(float(x.var()))
    model.compile(optimizer=keras.optimizers.Adam())
    history = model.fit(x, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
