"""Masked autoencoder: a layer hides random patches, a schedule class warms up, a monitor looks."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, pipeline


class PatchMasker(layers.Layer):
    def __init__(self, kept: int, width: int) -> None:
        super().__init__()
        self.kept, self.width = kept, width
        self.projection, self.position = layers.Dense(width), layers.Embedding(16, width)

    def build(self, shape: Any) -> None:
        self.token = self.add_weight((1, self.width), initializer="random_normal", name="token")
        self.projection.build(shape)
        self.position.build((16,))

    def call(self, patches: Any) -> Any:
        draws = keras.random.uniform((tf.shape(patches)[0], 16))
        order = tf.argsort(draws)
        hidden = tf.gather(tf.constant([0.0] * self.kept + [1.0] * (16 - self.kept)), order)
        codes = self.projection(patches) + self.position(tf.range(16))
        return codes + hidden[..., None] * (self.token - codes), hidden


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak: float, warm: int, total: int) -> None:
        self.peak, self.warm, self.total = peak, warm, total

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        cosine = 0.5 * (1 + tf.cos(np.pi * (step - self.warm) / (self.total - self.warm)))
        return self.peak * tf.where(step < self.warm, step / self.warm, cosine)


class MAE(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.masker, self.mix, self.norm = PatchMasker(6, 8), layers.MultiHeadAttention(2, 4), []
        self.norm.append(layers.LayerNormalization())  # filled later, and tracked all the same
        self.decoder = dense(12, 4, inputs=8)

    def patches(self, images: Any) -> Any:
        found = tf.image.extract_patches(images, *[[1, 2, 2, 1]] * 2, [1] * 4, "VALID")
        return tf.reshape(found, (-1, 16, 4))

    def calculate(self, images: Any, test: bool) -> Any:
        patches = self.patches(images)
        codes, hidden = self.masker(patches)
        h = self.norm[0](codes + self.mix(codes, codes, training=not test))
        rebuilt = tf.reshape(self.decoder(tf.reshape(h, (-1, 8))), (-1, 16, 4))
        return self.compute_loss(y=patches, y_pred=rebuilt, sample_weight=hidden), patches, rebuilt

    def train_step(self, images: Any) -> Any:
        with tf.GradientTape() as tape:
            loss, patches, rebuilt = self.calculate(images, test=False)
        descend(self.optimizer, tape, loss, self.trainable_variables)
        return self.compute_metrics(None, patches, rebuilt)

    def test_step(self, images: Any) -> Any:
        _, patches, rebuilt = self.calculate(images, test=True)
        return self.compute_metrics(None, patches, rebuilt)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(18)
    images = digits(128)[0]
    model = MAE()
    optimizer = keras.optimizers.AdamW(WarmUp(1e-2, 5, 18), weight_decay=1e-4)
    model.compile(optimizer, keras.losses.MeanSquaredError(), metrics=["mae"])
    data, held_out = pipeline(images[:96]), pipeline(images[96:])
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
