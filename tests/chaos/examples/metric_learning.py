"""Metric learning: pairs that a PyDataset draws by its own generator, similarities as logits."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, results


class Pairs(keras.utils.PyDataset):
    def __init__(self, x: Any, y: Any, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.of_class = [x[y == label] for label in range(10)]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        chosen = [group[rng.choice(len(group), 2, replace=False)] for group in self.of_class]
        return np.stack(chosen, axis=1)


class Embedding(keras.Model):
    def train_step(self, data: Any) -> Any:
        anchors, positives = data[0][0], data[0][1]
        with tf.GradientTape() as tape:
            one, other = self(anchors, training=True), self(positives, training=True)
            alike = tf.einsum("ae,pe->ap", one, other) / 0.2
            loss = self.compute_loss(y=tf.range(10), y_pred=alike)
        descend(self.optimizer, tape, loss, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(tf.range(10), alike)
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(15)
    images, labels = digits()
    core = dense(16, 8, inputs=64)
    model = Embedding(core.inputs, keras.layers.UnitNormalization()(core.outputs[0]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["sparse_categorical_accuracy"])
    data = Pairs(images.reshape(-1, 64), labels, batches=6)
    history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
