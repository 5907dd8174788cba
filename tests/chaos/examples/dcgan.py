"""DCGAN: two networks, two optimizers given to compile(), no call(); samples at each epoch."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, descend, digits, pipeline, results


class GAN(keras.Model):
    def __init__(self, critic: Any, generator: Any) -> None:
        super().__init__()
        self.critic, self.generator = critic, generator
        self.seeds = keras.random.SeedGenerator(7)

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        self.d_loss, self.g_loss = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")

    @property
    def metrics(self) -> Any:
        return [self.d_loss, self.g_loss]

    def train_step(self, real: Any) -> Any:
        count = tf.shape(real)[0]
        fakes = self.generator(keras.random.normal((count, 6), seed=self.seeds))
        truth = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], 0)
        with tf.GradientTape() as tape:
            loss = self.loss_fn(truth, self.critic(tf.concat([fakes, real], 0), training=True))
        descend(self.d_optimizer, tape, loss, self.critic.trainable_weights)
        noise = keras.random.normal((count, 6))
        with tf.GradientTape() as tape:
            fooled = self.loss_fn(tf.zeros((count, 1)), self.critic(self.generator(noise)))
        descend(self.g_optimizer, tape, fooled, self.generator.trainable_weights)
        self.d_loss.update_state(loss)
        self.g_loss.update_state(fooled)
        return results(self.metrics)


class Samples(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.brightness: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        pictures = self.model.generator(keras.random.normal((4, 6)))
        self.brightness.append(float(keras.ops.mean(pictures)))


def gan() -> GAN:
    convolution = {"strides": 2, "padding": "same"}
    down = [layers.Conv2D(8, 3, **convolution), layers.LeakyReLU(), layers.Dropout(0.2)]
    critic = keras.Sequential([keras.Input((8, 8, 1)), *down, layers.Flatten(), layers.Dense(1)])
    up = [layers.Conv2DTranspose(1, 4, activation="sigmoid", **convolution)]
    start = [layers.Dense(4 * 4 * 4), layers.Reshape((4, 4, 4)), layers.BatchNormalization()]
    model = GAN(critic, keras.Sequential([keras.Input((6,)), *start, *up]))
    adam = keras.optimizers.Adam
    model.compile(adam(1e-3), adam(2e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(1)
    model = gan()
    samples = Samples()
    data = pipeline(digits()[0])
    history = model.fit(data, epochs=3, verbose=0, callbacks=[samples, *backup()])
    optimizers = {"d": model.d_optimizer, "g": model.g_optimizer}
    return {"model": model, "history": history, "seen": samples.brightness, **optimizers}
