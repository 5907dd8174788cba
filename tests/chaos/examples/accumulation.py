"""Gradients accumulated by hand: variables made in __init__ and build, applied every third step."""

from typing import Any

import keras
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, digits, results


class Accumulating(keras.Model):
    def __init__(self, every: int, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.every = tf.constant(every)
        self.done = tf.Variable(0, trainable=False)
        self.sums = [
            tf.Variable(tf.zeros_like(weight), trainable=False) for weight in self.trainable_weights
        ]

    def train_step(self, data: Any) -> Any:
        x, y = data
        self.done.assign_add(1)
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted)
        gradients = tape.gradient(loss, self.trainable_variables)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(gradient)
        tf.cond(tf.equal(self.done, self.every), self.apply_all, lambda: None)
        self.compute_metrics(x, y, predicted)
        return results(self.metrics)

    def apply_all(self) -> None:
        self.optimizer.apply_gradients(zip(self.sums, self.trainable_variables, strict=True))
        self.done.assign(0)
        for total in self.sums:
            total.assign(tf.zeros_like(total))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(48)
    images, labels = digits(112)
    core = dense(16, 10, inputs=64, activation="softmax")
    model = Accumulating(3, core.inputs, core.outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(images.reshape(-1, 64), labels, epochs=3, callbacks=backup(), **arguments)
    sums = [total.numpy() for total in model.sums]
    return {"model": model, "history": history, "sums": sums, "done": int(model.done)}
