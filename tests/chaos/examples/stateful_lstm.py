"""Text by characters with a stateful LSTM, whose state goes on from batch to batch."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.chaos.examples.common import Backup, Result, sentences


class Forget(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch % 2:
            self.model.get_layer("memory").reset_state()


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(29)
    text = " ".join(sentences(40))[: 8 * 61]
    letters = sorted(set(text))
    codes = np.array([letters.index(letter) for letter in text]).reshape(8, 61)
    x, y = (  # row r of each batch goes on where row r of the batch before it ended
        part.reshape(8, 6, 10).transpose(1, 0, 2).reshape(48, 10)
        for part in (codes[:, :-1], codes[:, 1:])
    )
    inputs = keras.Input(batch_shape=(8, 10), dtype="int32")
    h = layers.Embedding(len(letters), 6)(inputs)
    memory = layers.LSTM(12, return_sequences=True, stateful=True, dropout=0.1, name="memory")
    model = keras.Model(inputs, layers.Dense(len(letters), "softmax")(memory(h)))
    model.compile(keras.optimizers.RMSprop(1e-2), "sparse_categorical_crossentropy")
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, epochs=3, callbacks=[Forget(), *backup()], **arguments)
    state = [np.asarray(part) for part in memory.states]
    return {"model": model, "history": history, "state": state}
