"""The same idea without a train_step: a layer that samples and adds the KL divergence itself."""

from typing import Any

import keras
from keras import layers, ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits


class Variational(layers.Layer):
    def __init__(self, width: int, **named: Any) -> None:
        super().__init__(**named)
        self.mean, self.log_variance = layers.Dense(width), layers.Dense(width)
        self.seeds = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: Any = None) -> Any:
        mean, log_variance = self.mean(inputs), self.log_variance(inputs)
        kl = ops.square(mean) + ops.exp(log_variance) - 1 - log_variance
        self.add_loss(0.01 * ops.mean(kl))
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(log_variance / 2) * noise


class Autoencoder(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.inner = layers.Dense(16, "relu")
        self.code = Variational(3)
        self.outer = layers.Dense(64, "sigmoid")

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.outer(self.code(self.inner(inputs), training=training))


def train(backup: Backup) -> Result:
    model = Autoencoder()  # built by its first batch, and not seeded at all
    model.compile("adamw", "binary_crossentropy", metrics=["mae"])
    x = digits()[0].reshape(-1, 64)
    data, held_out = Batches(x[:80], x[:80], batch_size=16, seed=1), (x[80:], x[80:])
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
