"""A train_step of one's own in JAX: pure functions of all state, with a loss tracker."""

from typing import Any

import jax
import keras

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits


class Stateless(keras.Model):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.tracker = keras.metrics.Mean(name="clipped_loss")

    def loss_and_updates(self, trained: Any, untrained: Any, x: Any, y: Any) -> Any:
        predicted, untrained = self.stateless_call(trained, untrained, x, training=True)
        loss = self.compute_loss(x, y, predicted)
        return keras.ops.minimum(loss, 2.5), untrained

    def train_step(self, state: Any, data: Any) -> Any:
        trained, untrained, optimizer, metrics = state
        gradient = jax.value_and_grad(self.loss_and_updates, has_aux=True)
        (loss, untrained), gradients = gradient(trained, untrained, *data)
        trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
        metrics = self.tracker.stateless_update_state(metrics, loss)
        logs = {"clipped_loss": self.tracker.stateless_result(metrics)}
        return logs, (trained, untrained, optimizer, metrics)

    @property
    def metrics(self) -> Any:
        return [self.tracker]


def network() -> Stateless:
    inputs = keras.Input((8, 8, 1))
    h = keras.layers.BatchNormalization()(keras.layers.Flatten()(inputs))
    h = keras.layers.Dropout(0.3)(keras.layers.Dense(16, "relu")(h))
    model = Stateless(inputs, keras.layers.Dense(10, "softmax")(h))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(52)
    images, labels = digits()
    model = network()
    data = Batches(images, labels, batch_size=16, seed=5)
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
