"""Discriminative rates: one optimizer for each group of layers, held in an object of its own."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, digits, results


class Groups:
    def __init__(self, pairs: list[tuple[Any, list[Any]]]) -> None:
        self.pairs = pairs

    def apply(self, tape: Any, loss: Any) -> None:
        for optimizer, group in self.pairs:
            weights = [weight for layer in group for weight in layer.trainable_weights]
            gradients = tape.gradient(loss, weights)
            optimizer.apply_gradients(zip(gradients, weights, strict=True))


class Discriminative(keras.Model):
    def attach(self, groups: Groups) -> None:
        self.groups = groups

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted)
        self.groups.apply(tape, loss)
        self.compute_metrics(x, y, predicted)
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(51)
    images, labels = digits()
    inputs = keras.Input((64,))
    stack = [layers.Dense(16, "relu"), layers.Dropout(0.2), layers.Dense(10, "softmax")]
    h = inputs
    for layer in stack:
        h = layer(h)
    model = Discriminative(inputs, h)
    optimizers = [keras.optimizers.Adam(1e-4), keras.optimizers.SGD(1e-2, momentum=0.9)]
    model.attach(Groups([(optimizers[0], stack[:1]), (optimizers[1], stack[2:])]))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(images.reshape(-1, 64), labels, epochs=3, callbacks=backup(), **arguments)
    return {"model": model, "history": history, "slow": optimizers[0], "fast": optimizers[1]}
