"""Sums learned by a sequence model: fit in a loop of the script's own, an epoch each."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.chaos.examples.common import Backup, Result, integers


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(32)
    pairs = integers(50, 96, 2)
    texts = [f"{a:>2}+{b:>2}" for a, b in pairs], [f"{a + b:>2}" for a, b in pairs]
    letters = sorted({letter for text in texts[0] + texts[1] for letter in text})
    x, y = (np.eye(len(letters))[[[letters.index(c) for c in t] for t in some]] for some in texts)
    recurrent = [layers.LSTM(12), layers.RepeatVector(2), layers.LSTM(12, return_sequences=True)]
    outputs = layers.Dense(len(letters), "softmax")
    model = keras.Sequential([keras.Input((5, len(letters))), *recurrent, outputs])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    histories: dict[str, Any] = {}
    guesses = []
    for number in range(3):
        histories[f"history {number}"] = model.fit(
            x,
            y,
            batch_size=16,
            epochs=1,
            shuffle=False,
            validation_data=(x[:20], y[:20]),
            verbose=0,
            callbacks=backup(f"round {number}"),
        )
        row = np.random.randint(len(x))
        guesses.append(model.predict(x[row : row + 1], verbose=0).argmax(-1).tolist())
    return {"model": model, "guesses": guesses, **histories}
