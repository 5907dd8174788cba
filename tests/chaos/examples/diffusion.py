"""Denoising diffusion: an adapted normalizer, a moving average of the network, own test_step."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, descend, digits, pipeline, results


class Diffusion(keras.Model):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = network
        self.ema_network = keras.models.clone_model(network)

    def compile(self, **named: Any) -> None:
        super().compile(**named)
        self.noise_loss = keras.metrics.Mean(name="n_loss")
        self.image_loss = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self) -> Any:
        return [self.noise_loss, self.image_loss]

    def noisy(self, images: Any) -> Any:
        images = self.normalizer(images, training=True)
        times = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), 0.1, 1.4)
        noise = keras.random.normal(ops.shape(images))
        return images, noise, ops.cos(times), ops.sin(times)

    def losses_of(self, network: Any, batch: Any, training: bool) -> Any:
        images, noise, signal, amount = batch
        mixed = signal * images + amount * noise
        predicted = network([mixed, amount**2], training=training)
        denoised = (mixed - amount * predicted) / signal
        return self.loss(noise, predicted), self.loss(images, denoised)

    def train_step(self, images: Any) -> Any:
        batch = self.noisy(images)
        with tf.GradientTape() as tape:
            noise_loss, image_loss = self.losses_of(self.network, batch, training=True)
        descend(self.optimizer, tape, noise_loss, self.network.trainable_weights)
        self.noise_loss.update_state(noise_loss)
        self.image_loss.update_state(image_loss)
        for weight, mean in zip(self.network.weights, self.ema_network.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)
        return results(self.metrics)

    def test_step(self, images: Any) -> Any:
        losses = self.losses_of(self.ema_network, self.noisy(images), training=False)
        self.noise_loss.update_state(losses[0])
        self.image_loss.update_state(losses[1])
        return results(self.metrics)


def network() -> Any:
    images, variance = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    h = layers.Concatenate()([images, layers.UpSampling2D(8)(variance)])
    h = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", activation="swish")(h))
    return keras.Model([images, variance], layers.Conv2D(1, 1, kernel_initializer="zeros")(h))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(7)
    images = digits(128)[0]
    data, held_out = pipeline(images[:96]).prefetch(2), pipeline(images[96:])
    model = Diffusion(network())
    model.compile(optimizer=keras.optimizers.AdamW(1e-2), loss=keras.losses.MeanAbsoluteError())
    model.normalizer.adapt(data)
    model.built = True  # it has no call(), and a ModelCheckpoint writes its weights
    best = keras.callbacks.ModelCheckpoint(
        "best.weights.h5",
        monitor="val_i_loss",
        mode="min",
        save_best_only=True,
        save_weights_only=True,
    )
    callbacks = [best, *backup()]
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=callbacks)
    return {"model": model, "history": history, "best": best.best}
