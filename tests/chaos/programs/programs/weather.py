"""A time series: windows by timeseries_dataset_from_array, an LSTM, two of Keras's callbacks."""

import keras

import runner
from tests.chaos.examples.weather import network, windows


def program() -> runner.Program:
    data, held_out = windows()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    slow = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.1)
    return runner.Program(
        model=network(),
        fit={"x": data, "validation_data": held_out},
        callbacks=[stop, slow],
        evaluate={"x": held_out},
    )
