"""Averaged weights: a callback with a second model, used in evaluations of its own."""

from typing import Any

import keras

from runner import Batches
from tests.chaos.examples.common import Backup, Result, dense, digits


class Averages(keras.callbacks.Callback):
    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = data
        self.scores: dict[int, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        self.average = keras.models.clone_model(self.model)
        self.average.set_weights(self.model.get_weights())
        self.average.compile(loss=self.model.loss)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pairs = zip(self.average.get_weights(), self.model.get_weights(), strict=True)
        self.average.set_weights([0.9 * mean + 0.1 * now for mean, now in pairs])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.scores[epoch] = float(self.average.evaluate(*self.data, verbose=0))
        logs["average_loss"] = self.scores[epoch]


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(23)
    images, labels = digits(128)
    x = images.reshape(-1, 64)
    model = dense(16, 10, inputs=64, activation="softmax")
    model.compile("nadam", "sparse_categorical_crossentropy")
    averages = Averages((x[96:], labels[96:]))
    data = Batches(x[:96], labels[:96], batch_size=16, seed=9)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[averages, *backup()])
    return {
        "model": model,
        "history": history,
        "average": averages.average,
        "scores": list(averages.scores.values()),
    }
