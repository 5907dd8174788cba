"""Quantile regression: a loss made by a function, a metric and a loss that keep states."""

from typing import Any

import keras
from keras import ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, dense, normals

QUANTILES = (0.1, 0.5, 0.9)


def pinball(quantile: float) -> Any:
    def loss(truth: Any, predicted: Any) -> Any:
        error = truth - predicted
        return ops.mean(ops.maximum(quantile * error, (quantile - 1) * error), axis=-1)

    return loss


class Scaled(keras.losses.Loss):
    """Divides by a running mean of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = keras.Variable(1.0, trainable=False, name="running_mean")

    def call(self, truth: Any, predicted: Any) -> Any:
        parts = [pinball(q)(truth, predicted[:, i : i + 1]) for i, q in enumerate(QUANTILES)]
        loss = sum(parts)
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(loss))
        return loss / ops.maximum(ops.stop_gradient(self.mean.value), 1e-3)


class Coverage(keras.metrics.Metric):
    def __init__(self) -> None:
        super().__init__(name="coverage")
        self.inside = self.add_weight(name="inside", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, truth: Any, predicted: Any, sample_weight: Any = None) -> None:
        within = (truth[:, 0] > predicted[:, 0]) & (truth[:, 0] < predicted[:, 2])
        self.inside.assign_add(ops.sum(ops.cast(within, "float32")))
        self.count.assign_add(ops.cast(ops.shape(truth)[0], "float32"))

    def result(self) -> Any:
        return self.inside / (self.count + 1e-7)


def network() -> Any:
    model = dense(16, 3, inputs=4)
    model.compile(keras.optimizers.Lion(1e-2), Scaled(), metrics=[Coverage()])
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(38)
    x = normals(96, 4)
    model = network()
    data = Batches(x, x[:, :1] + normals(96, 1, seed=1), batch_size=16, seed=5)
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history, "mean": float(model.loss.mean.value)}
