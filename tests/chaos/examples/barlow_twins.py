"""Barlow Twins: a loss class on the correlation of two views, made in the pipeline by seeds."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, results


class BarlowLoss(keras.losses.Loss):
    def __init__(self, redundancy: float) -> None:
        super().__init__()
        self.redundancy = redundancy

    def call(self, one: Any, other: Any) -> Any:
        one, other = (
            (z - tf.reduce_mean(z, 0)) / (tf.math.reduce_std(z, 0) + 1e-3) for z in (one, other)
        )
        correlation = tf.transpose(one) @ other / tf.cast(tf.shape(one)[0], tf.float32)
        same = tf.eye(tf.shape(correlation)[0])
        off = tf.square(correlation - same)
        return tf.reduce_sum(off * same + self.redundancy * off * (1 - same))


class BarlowModel(keras.Model):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> Any:
        return [self.tracker]

    def train_step(self, batch: Any) -> Any:
        with tf.GradientTape() as tape:
            one, other = (self.encoder(view, training=True) for view in batch)
            loss = self.loss(one, other)
        descend(self.optimizer, tape, loss, self.encoder.trainable_variables)
        self.tracker.update_state(loss)
        return results(self.metrics)


def view(number: Any, picture: Any) -> Any:
    return picture + 0.1 * tf.random.stateless_normal((64,), seed=(number, 7))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(12)
    pictures = tf.data.Dataset.from_tensor_slices(digits()[0].reshape(-1, 64)).enumerate()
    one, other = pictures.map(view), pictures.map(lambda n, x: view(n + 1000, x))
    data = tf.data.Dataset.zip((one, other)).batch(16)
    model = BarlowModel(dense(16, 8, inputs=64))
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 18)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), BarlowLoss(0.05))
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, "rate": float(model.optimizer.learning_rate)}
