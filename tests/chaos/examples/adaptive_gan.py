"""GAN with adaptive augmentation: how much is augmented is a variable that the critic steers."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, pipeline, results


class Augmenter(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.probability = tf.Variable(0.0, trainable=False)
        self.layers_of_it = keras.Sequential(
            [keras.Input((8, 8, 1)), layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)]
        )

    def call(self, images: Any, training: Any = None) -> Any:
        changed = self.layers_of_it(images, training=True)
        draws = keras.random.uniform((tf.shape(images)[0], 1, 1, 1))
        return tf.where(draws < self.probability, changed, images)

    def update(self, scores: Any) -> None:
        accuracy = tf.reduce_mean(0.5 * (1.0 + tf.sign(scores)))
        change = (accuracy - 0.6) / 5.0
        self.probability.assign(tf.clip_by_value(self.probability + change, 0.0, 1.0))


class AdaptiveGAN(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.augmenter = Augmenter()
        self.generator = dense(16, 64, inputs=4, activation="sigmoid")
        self.critic = dense(16, 1, inputs=64)
        self.ema_generator = keras.models.clone_model(self.generator)

    def compile(self, g_optimizer: Any, c_optimizer: Any, **named: Any) -> None:
        super().compile(**named)
        self.g_optimizer, self.c_optimizer = g_optimizer, c_optimizer
        self.trackers = [keras.metrics.Mean(name) for name in ("g_loss", "c_loss", "augmented")]

    @property
    def metrics(self) -> Any:
        return self.trackers

    def score(self, images: Any) -> Any:
        return self.critic(tf.reshape(self.augmenter(images), (-1, 64)))

    def train_step(self, real: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            fakes = self.generator(keras.random.normal((tf.shape(real)[0], 4)))
            scores = self.score(real), self.score(tf.reshape(fakes, (-1, 8, 8, 1)))
            g_loss = tf.reduce_mean(tf.nn.softplus(-scores[1]))
            c_loss = tf.reduce_mean(tf.nn.softplus(-scores[0]) + tf.nn.softplus(scores[1]))
        descend(self.g_optimizer, tape, g_loss, self.generator.trainable_weights)
        descend(self.c_optimizer, tape, c_loss, self.critic.trainable_weights)
        self.augmenter.update(scores[0])
        values = (g_loss, c_loss, self.augmenter.probability)
        for tracker, value in zip(self.trackers, values, strict=True):
            tracker.update_state(value)
        for mean, weight in zip(self.ema_generator.weights, self.generator.weights, strict=True):
            mean.assign(0.8 * mean + 0.2 * weight)
        return results(self.trackers)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(8)
    model = AdaptiveGAN()
    model.compile(keras.optimizers.Adam(1e-2, 0.5), keras.optimizers.Adam(1e-2, 0.5))
    history = model.fit(pipeline(digits()[0]), epochs=3, verbose=0, callbacks=backup())
    augmented = float(model.augmenter.probability)
    optimizers = {"g": model.g_optimizer, "c": model.c_optimizer}
    return {"model": model, "history": history, "augmented": augmented, **optimizers}
