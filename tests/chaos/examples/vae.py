"""Variational autoencoder: a sampling layer with seeds of its own, three trackers, no call()."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, results


class Sampling(layers.Layer):
    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


class VAE(keras.Model):
    def __init__(self, encoder: Any, decoder: Any, **named: Any) -> None:
        super().__init__(**named)
        self.encoder, self.decoder = encoder, decoder
        names = ("loss", "reconstruction_loss", "kl_loss")
        self.trackers = [keras.metrics.Mean(name=name) for name in names]

    @property
    def metrics(self) -> Any:
        return self.trackers

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape() as tape:
            mean, log_variance, code = self.encoder(data)
            wrong = ops.sum(keras.losses.binary_crossentropy(data, self.decoder(code)))
            kl = -0.5 * (1 + log_variance - ops.square(mean) - ops.exp(log_variance))
            parts = [wrong, ops.mean(kl)]
            losses = [ops.sum(ops.stack(parts)), *parts]  # see inspection.adds_a_sum
        descend(self.optimizer, tape, losses[0], self.trainable_weights)
        for tracker, loss in zip(self.trackers, losses, strict=True):
            tracker.update_state(loss)
        return results(self.trackers)


def vae() -> VAE:
    inputs = keras.Input((64,))
    h = layers.Dense(16, "relu")(inputs)
    mean, log_variance = layers.Dense(2)(h), layers.Dense(2)(h)
    encoder = keras.Model(inputs, [mean, log_variance, Sampling()([mean, log_variance])])
    model = VAE(encoder, dense(16, 64, inputs=2, activation="sigmoid"))
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(5)
    model = vae()
    x = digits()[0].reshape(-1, 64)
    history = model.fit(x, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
