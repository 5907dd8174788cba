"""Gradient centralisation: an optimizer of one's own; with it, gradients are accumulated."""

from typing import Any

import keras
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, digits


class Centralized(keras.optimizers.RMSprop):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.largest = self.add_variable((), dtype="float32", name="largest_mean")

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        centred = []
        for gradient in grads:
            mean = ops.mean(gradient, axis=list(range(len(gradient.shape) - 1)), keepdims=True)
            matrix = len(gradient.shape) > 1
            if matrix:
                self.largest.assign(ops.maximum(self.largest, ops.max(ops.abs(mean))))
            centred.append(gradient - mean if matrix else gradient)
        return super().apply(centred, trainable_variables)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(22)
    images, labels = digits()
    inner = [layers.Conv2D(6, 3, activation="relu"), layers.Dropout(0.3), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *inner, layers.Dense(10, "softmax")])
    optimizer = Centralized(1e-2, gradient_accumulation_steps=2)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(images, labels, epochs=3, callbacks=backup(), **arguments)
    return {"model": model, "history": history}
