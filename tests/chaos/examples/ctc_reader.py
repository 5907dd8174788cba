"""Reading captchas: labels are a second input, a layer at the end adds the CTC loss itself."""

from typing import Any

import keras
from keras import layers, ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits, integers


class CTC(layers.Layer):
    def call(self, labels: Any, predicted: Any) -> Any:
        count, steps = ops.shape(predicted)[0], ops.shape(predicted)[1]
        lengths = ops.full((count,), 3, "int32"), ops.full((count,), steps, "int32")
        self.add_loss(ops.mean(ops.ctc_loss(labels, ops.log(predicted + 1e-7), *lengths, 0)))
        return predicted


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(28)
    images, labels = keras.Input((8, 8, 1), name="image"), keras.Input((3,), name="label")
    h = layers.Conv2D(6, 3, padding="same", activation="relu")(images)
    h = layers.Dropout(0.2)(layers.Reshape((8, 48))(h))
    h = layers.Bidirectional(layers.LSTM(6, return_sequences=True, dropout=0.25))(h)
    model = keras.Model([images, labels], CTC()(labels, layers.Dense(7, "softmax")(h)))
    model.compile(optimizer=keras.optimizers.Adam())
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    x = {"image": digits()[0], "label": 1 + integers(6, 96, 3)}
    held_out = {name: part[:20] for name, part in x.items()}
    history = model.fit(
        Batches(x, batch_size=16, seed=3),
        epochs=3,
        validation_data=(held_out, None),
        validation_batch_size=10,
        verbose=0,
        callbacks=[stop, *backup()],
    )
    return {"model": model, "history": history}
