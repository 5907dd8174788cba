"""Supervised contrastive learning: an encoder by a loss class, then a classifier on it, frozen."""

from typing import Any

import keras
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, dense, digits


class ContrastiveLoss(keras.losses.Loss):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def call(self, labels: Any, codes: Any) -> Any:
        codes = ops.normalize(codes, axis=1)
        logits = ops.matmul(codes, ops.transpose(codes)) / self.temperature
        same = ops.cast(ops.equal(labels, ops.transpose(labels)), "float32")
        truth = same / ops.sum(same, axis=1, keepdims=True)
        return keras.losses.categorical_crossentropy(truth, logits, from_logits=True)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(25)
    images, labels = digits()
    x, y = images.reshape(-1, 64), labels[:, None]
    encoder, head = dense(16, 8, inputs=64, activation="relu"), layers.Dense(4)
    contrastive = keras.Sequential([keras.Input((64,)), encoder, head])
    contrastive.compile(keras.optimizers.Adam(1e-2), ContrastiveLoss(0.1))
    arguments = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    first = contrastive.fit(x, y, callbacks=backup("encoder"), **arguments)
    encoder.trainable = False
    parts = [layers.Dropout(0.3), layers.Dense(10, "softmax")]
    classifier = keras.Sequential([keras.Input((64,)), encoder, *parts])
    classifier.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    second = classifier.fit(x, y, callbacks=backup("classifier"), **arguments)
    return {"encoder": contrastive, "classifier": classifier, "first": first, "second": second}
