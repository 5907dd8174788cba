"""Warm-up of the learning rate by a callback that counts steps; rates kept for a plot."""

from collections import defaultdict
from typing import Any

import keras

from runner import Batches
from tests.chaos.examples.common import Backup, Result, dense, digits


class WarmUp(keras.callbacks.Callback):
    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak, self.steps, self.step = peak, steps, 0
        self.seen: Any = defaultdict(list)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        factor = min((self.step + 1) / self.steps, (self.steps / (self.step + 1)) ** 0.5)
        self.model.optimizer.learning_rate = self.peak * factor
        self.seen[self.step % 2].append(self.peak * factor)
        self.step += 1


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(24)
    images, labels = digits()
    x = images.reshape(-1, 64)
    model = dense(16, 10, inputs=64, activation="softmax")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    warm_up = WarmUp(1e-2, 8)
    log = keras.callbacks.CSVLogger("log.csv")
    data = Batches(x, labels, batch_size=16, seed=9)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[warm_up, log, *backup()])
    return {"model": model, "history": history, "seen": [warm_up.seen[0], warm_up.seen[1]]}
