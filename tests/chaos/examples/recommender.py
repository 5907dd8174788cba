"""Collaborative filtering: a subclassed network, built by its first batch, and not seeded."""

from typing import Any

import keras
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, integers


class Recommender(keras.Model):
    def __init__(self, users: int, films: int, width: int) -> None:
        super().__init__()
        l2 = keras.regularizers.l2(1e-4)
        named = {"embeddings_initializer": "he_normal", "embeddings_regularizer": l2}
        self.user = layers.Embedding(users, width, **named)
        self.film = layers.Embedding(films, width, **named)
        self.user_bias, self.film_bias = layers.Embedding(users, 1), layers.Embedding(films, 1)

    def call(self, inputs: Any) -> Any:
        alike = ops.sum(self.user(inputs[:, 0]) * self.film(inputs[:, 1]), axis=1, keepdims=True)
        return ops.sigmoid(alike + self.user_bias(inputs[:, 0]) + self.film_bias(inputs[:, 1]))


def train(backup: Backup) -> Result:
    x = integers(12, 100, 2)
    y = (x.sum(1) % 5 / 4.0).astype("float32")
    model = Recommender(12, 12, 4)
    loss, optimizer = keras.losses.BinaryCrossentropy(), keras.optimizers.Adam(1e-2)
    model.compile(loss=loss, optimizer=optimizer, steps_per_execution=2)
    arguments = {"batch_size": 16, "shuffle": False, "validation_split": 0.2, "verbose": 0}
    history = model.fit(x, y, epochs=3, callbacks=backup(), **arguments)
    return {"model": model, "history": history}
