"""Conditional GAN: labels joined to noise and pictures; draws with TensorFlow's own generator."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, pipeline, results


class ConditionalGAN(keras.Model):
    def __init__(self, critic: Any, generator: Any) -> None:
        super().__init__()
        self.critic, self.generator = critic, generator
        self.g_tracker = keras.metrics.Mean(name="generator_loss")
        self.d_tracker = keras.metrics.Mean(name="discriminator_loss")

    @property
    def metrics(self) -> Any:
        return [self.g_tracker, self.d_tracker]

    def compile(self, optimizers: Any, loss_fn: Any) -> None:
        super().compile()
        self.optimizers, self.loss_fn = optimizers, loss_fn

    def train_step(self, data: Any) -> Any:
        pictures, labels = data
        count = tf.shape(labels)[0]
        noise = tf.random.normal((count, 4))
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(tf.concat([noise, labels], 1))
            real_score = self.critic(tf.concat([pictures, labels], 1))
            fake_score = self.critic(tf.concat([fake, labels], 1))
            d_loss = self.loss_fn(tf.ones((count, 1)), real_score)
            d_loss += self.loss_fn(tf.zeros((count, 1)), fake_score)
            g_loss = self.loss_fn(tf.ones((count, 1)), fake_score)
        descend(self.optimizers["d"], tape, d_loss, self.critic.trainable_weights)
        descend(self.optimizers["g"], tape, g_loss, self.generator.trainable_weights)
        self.g_tracker.update_state(g_loss)
        self.d_tracker.update_state(d_loss)
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(3)
    images, labels = digits()
    model = ConditionalGAN(dense(16, 1, inputs=74), dense(16, 64, inputs=14))
    optimizers = {"d": keras.optimizers.Adam(1e-3), "g": keras.optimizers.Adam(1e-3)}
    model.compile(optimizers, keras.losses.BinaryCrossentropy(from_logits=True))
    kinds = keras.utils.to_categorical(labels, 10).astype("float32")
    data = pipeline(images.reshape(-1, 64), kinds)
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, **optimizers}
