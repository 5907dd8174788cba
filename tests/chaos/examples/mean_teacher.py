"""Mean teacher: consistency of a noisy student with its own average, on clean and noisy data."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, descend, digits, pipeline, results


def classifier() -> Any:
    inner = [layers.GaussianNoise(0.2), layers.Dense(16, "relu"), layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((64,)), *inner, layers.Dense(10)])


class SelfTraining(keras.Model):
    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.tracker = keras.metrics.Mean(name="total_loss")

    def compile(self, optimizer: Any, metrics: Any, temperature: float) -> None:
        super().compile(optimizer=optimizer, metrics=metrics)
        self.temperature = temperature

    def train_step(self, data: Any) -> Any:
        (clean, y), noisy = data
        soft = tf.nn.softmax(self.teacher(noisy, training=False) / self.temperature)
        with tf.GradientTape() as tape:
            logits = self.student(clean, training=True)
            loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
            other = tf.nn.softmax(self.student(noisy, training=True) / self.temperature)
            loss = tf.reduce_mean(loss) + tf.reduce_mean(keras.losses.kl_divergence(soft, other))
        descend(self.optimizer, tape, loss, self.student.trainable_variables)
        for mean, weight in zip(self.teacher.weights, self.student.weights, strict=True):
            if mean.dtype == "float32":  # and no seed
                mean.assign(0.9 * mean + 0.1 * weight)
        self.tracker.update_state(loss)
        self.compute_metrics(None, y, logits)
        return results(self.metrics)

    def test_step(self, data: Any) -> Any:
        x, y = data
        return self.compute_metrics(None, y, self.student(x, training=False))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(13)
    images, labels = digits(128)
    x = images.reshape(-1, 64)
    clean = pipeline(x[:96], labels[:96], seed=42)
    noisy = pipeline(x[:96] * 0.8, seed=42)
    model = SelfTraining(classifier(), classifier())
    model.compile("adam", ["sparse_categorical_accuracy"], temperature=10)
    plateau = keras.callbacks.ReduceLROnPlateau("total_loss", mode="min", patience=0)
    data, held_out = tf.data.Dataset.zip((clean, noisy)), pipeline(x[96:], labels[96:])
    callbacks = [plateau, *backup()]
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=callbacks)
    return {"model": model, "history": history}
