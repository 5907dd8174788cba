"""Next frame of a film by ConvLSTM, with the callbacks of its example."""

import keras
import numpy as np
from keras import layers

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(27)
    pictures = digits(40)[0]
    films = np.stack([np.roll(pictures, shift, axis=2) for shift in range(4)], axis=1)
    x, y = films[:, :-1], films[:, 1:]
    model = keras.Sequential(
        [
            keras.Input((None, 8, 8, 1)),
            layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True, recurrent_dropout=0.2),
            layers.BatchNormalization(),
            layers.Conv3D(1, 3, padding="same", activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=0, min_delta=0.05)
    data, held_out = Batches(x[:30], y[:30], batch_size=5, seed=1), (x[30:], y[30:])
    callbacks = [stop, plateau, *backup()]
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=callbacks)
    return {"model": model, "history": history}
