"""Siamese network: a layer of distances, a triplet loss in train_step and test_step."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, pipeline, results


class Distances(layers.Layer):
    def call(self, anchor: Any, positive: Any, negative: Any) -> Any:
        near = tf.reduce_sum(tf.square(anchor - positive), -1)
        return near, tf.reduce_sum(tf.square(anchor - negative), -1)


class Siamese(keras.Model):
    def __init__(self, network: Any, margin: float) -> None:
        super().__init__()
        self.network, self.margin = network, margin
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> Any:
        return [self.tracker]

    def call(self, inputs: Any) -> Any:
        return self.network(inputs)

    def triplet(self, data: Any) -> Any:
        near, far = self.network(data)
        return tf.maximum(near - far + self.margin, 0.0)

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.triplet(data)
        descend(self.optimizer, tape, loss, self.network.trainable_weights)
        self.tracker.update_state(loss)
        return results(self.metrics)

    def test_step(self, data: Any) -> Any:
        self.tracker.update_state(self.triplet(data))
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(14)
    x = digits(120)[0].reshape(-1, 64)
    embedding = dense(16, 4, inputs=64)
    inputs = [keras.Input((64,), name=name) for name in ("anchor", "positive", "negative")]
    network = keras.Model(inputs, Distances()(*map(embedding, inputs)))
    triplets = tf.data.Dataset.zip(tuple(pipeline(x, seed=seed).unbatch() for seed in (1, 2, 3)))
    data, held_out = triplets.take(96).batch(16), triplets.skip(96).batch(8)
    model = Siamese(network, margin=0.5)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=backup())
    return {"model": model, "embedding": embedding, "history": history}
