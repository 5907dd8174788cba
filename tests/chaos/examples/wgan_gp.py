"""WGAN-GP: a gradient penalty, two critic steps for each of the generator, logs without metrics."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, normals, pipeline


class WGAN(keras.Model):
    def __init__(self, critic: Any, generator: Any, extra_steps: int) -> None:
        super().__init__()
        self.critic, self.generator, self.extra_steps = critic, generator, extra_steps

    def compile(self, c_optimizer: Any, g_optimizer: Any, c_loss: Any, g_loss: Any) -> None:
        super().compile()
        self.c_optimizer, self.g_optimizer = c_optimizer, g_optimizer
        self.c_loss, self.g_loss = c_loss, g_loss

    def penalty(self, real: Any, fake: Any) -> Any:
        mix = keras.random.uniform((tf.shape(real)[0], 1))
        between = mix * real + (1 - mix) * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            scores = self.critic(between, training=True)
        norm = tf.norm(tape.gradient(scores, between), axis=1)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, real: Any) -> Any:
        count = tf.shape(real)[0]
        for _ in range(self.extra_steps):
            fake = self.generator(keras.random.normal((count, 4)), training=True)
            with tf.GradientTape() as tape:
                scores = self.critic(real, training=True), self.critic(fake, training=True)
                c_loss = self.c_loss(*scores) + 10.0 * self.penalty(real, fake)
            descend(self.c_optimizer, tape, c_loss, self.critic.trainable_variables)
        with tf.GradientTape() as tape:
            fake = self.generator(keras.random.normal((count, 4)), training=True)
            g_loss = self.g_loss(self.critic(fake, training=True))
        descend(self.g_optimizer, tape, g_loss, self.generator.trainable_variables)
        return {"c_loss": c_loss, "g_loss": g_loss}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(2)
    model = WGAN(dense(16, 1, inputs=6), dense(16, 6, inputs=4), extra_steps=2)
    model.compile(
        keras.optimizers.Adam(2e-3, beta_1=0.5),
        keras.optimizers.RMSprop(2e-3),
        lambda real, fake: tf.reduce_mean(fake) - tf.reduce_mean(real),
        lambda fake: -tf.reduce_mean(fake),
    )
    data = pipeline(normals(96, 6), seed=4)
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, "c": model.c_optimizer, "g": model.g_optimizer}
