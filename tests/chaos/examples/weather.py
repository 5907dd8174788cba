"""Weather forecast: windows by timeseries_dataset_from_array, the callbacks of its example."""

from typing import Any

import keras
from keras import layers

from tests.chaos.examples.common import Backup, Result, normals


def windows() -> Any:
    """To train with, and held out."""
    series = normals(220, 3).cumsum(0) / 10
    return (
        keras.utils.timeseries_dataset_from_array(
            part[:-6],
            part[6 + 24 :, 1:2],
            sequence_length=24,
            sampling_rate=2,
            batch_size=12,
        )
        for part in (series[:160], series[160:])
    )


def network() -> Any:
    model = keras.Sequential([keras.Input((24, 3)), layers.LSTM(8), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(36)
    data, held_out = windows()
    model = network()
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=0, patience=2)
    best = keras.callbacks.ModelCheckpoint(
        "best.weights.h5", monitor="val_loss", save_weights_only=True, save_best_only=True
    )
    callbacks = [stop, best, *backup()]
    history = model.fit(data, epochs=3, validation_data=held_out, verbose=0, callbacks=callbacks)
    return {"model": model, "history": history, "best": [best.best, stop.best]}
