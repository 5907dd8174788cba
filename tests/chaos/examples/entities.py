"""Named entities: a subclassed transformer, a loss that leaves padding out, ragged sentences."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result


class TokenLoss(keras.losses.Loss):
    def call(self, truth: Any, predicted: Any) -> Any:
        loss = keras.losses.sparse_categorical_crossentropy(truth, predicted)
        mask = ops.cast(truth > 0, "float32")
        return ops.sum(loss * mask) / ops.sum(mask)


class Tagger(keras.Model):
    def __init__(self, tags: int, words: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = layers.Embedding(words, width)
        self.attention = layers.MultiHeadAttention(2, width)
        self.norm = layers.LayerNormalization()
        self.dropouts = {"first": layers.Dropout(0.1), "last": layers.Dropout(0.2)}
        self.head = layers.Dense(tags, "softmax")

    def call(self, inputs: Any, training: bool = False) -> Any:
        h = self.dropouts["first"](self.embedding(inputs), training=training)
        h = self.norm(h + self.attention(h, h, training=training))
        return self.head(self.dropouts["last"](h, training=training))


def train(backup: Backup) -> Result:
    import tensorflow as tf

    keras.utils.set_random_seed(33)
    rng = np.random.default_rng(5)
    rows = [rng.integers(1, 20, rng.integers(3, 9)).tolist() for _ in range(48)]
    words = tf.ragged.constant(rows, dtype=tf.int32)
    data = tf.data.Dataset.from_tensor_slices((words, words % 4 + 1))
    data = data.map(lambda x, y: (x, y)).ragged_batch(8)
    data = data.map(lambda x, y: (x.to_tensor(shape=(None, 8)), y.to_tensor(shape=(None, 8))))
    model = Tagger(tags=5, words=20)
    model.compile("adam", TokenLoss())
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
