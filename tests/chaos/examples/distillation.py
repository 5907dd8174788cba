"""Knowledge distillation: compute_loss asks a frozen teacher that fit() has trained before."""

from typing import Any

import keras
from keras import ops

from tests.chaos.examples.common import Backup, Result, dense, digits


class Distiller(keras.Model):
    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def compile(self, optimizer: Any, metrics: Any, alpha: float, temperature: float) -> None:
        super().compile(optimizer=optimizer, metrics=metrics)
        self.alpha, self.temperature = alpha, temperature
        self.student_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.distillation_loss = keras.losses.KLDivergence()

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **named: Any
    ) -> Any:
        soft = ops.softmax(self.teacher(x, training=False) / self.temperature)
        copied = self.distillation_loss(soft, ops.softmax(y_pred / self.temperature))
        return self.alpha * self.student_loss(y, y_pred) + (1 - self.alpha) * copied * 9.0

    def call(self, x: Any) -> Any:
        return self.student(x)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(10)
    images, labels = digits()
    x = images.reshape(-1, 64)
    teacher = dense(32, 16, 10, inputs=64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile("adam", loss, metrics=["accuracy"])
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    first = teacher.fit(x, labels, epochs=2, callbacks=backup("teacher"), **arguments)
    teacher.trainable = False
    model = Distiller(dense(6, 10, inputs=64), teacher)
    model.compile("adam", ["sparse_categorical_accuracy"], alpha=0.1, temperature=3.0)
    history = model.fit(x, labels, epochs=2, callbacks=backup("student"), **arguments)
    return {"teacher": teacher, "model": model, "first": first, "history": history}
