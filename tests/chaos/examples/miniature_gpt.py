"""A miniature GPT: two outputs, one without a loss; a callback writes text by NumPy's draws."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, integers


class Block(layers.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, width)
        self.inner = keras.Sequential([layers.Dense(12, "relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.dropout = layers.Dropout(0.1)

    def call(self, x: Any) -> Any:
        length = ops.shape(x)[1]
        causal = ops.arange(length)[:, None] >= ops.arange(length)
        x = self.norms[0](x + self.dropout(self.attention(x, x, attention_mask=causal[None])))
        return self.norms[1](x + self.inner(x))


class Writer(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[list[int]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        text = [1]
        for _ in range(4):
            padded = np.array([text + [0] * (8 - len(text))], dtype="int32")
            logits = np.asarray(self.model(padded)[0])[0, len(text) - 1]
            share = np.exp(logits - logits.max())
            text.append(int(np.random.choice(len(share), p=share / share.sum())))
        self.written.append(text)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(31)
    inputs = keras.Input((8,), dtype="int32")
    h = Block(6)(layers.Embedding(20, 6)(inputs))
    model = keras.Model(inputs, [layers.Dense(20)(h), h])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=[loss, None])
    text, writer = integers(20, 96, 9), Writer()
    data = Batches(text[:, :-1], (text[:, 1:], np.zeros((96, 8, 6))), batch_size=16, seed=1)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[writer, *backup()])
    return {"model": model, "history": history, "written": writer.written}
