"""Anomalies in a series: an autoencoder that is stopped early, the threshold from its errors."""

import keras
import numpy as np
from keras import layers

from tests.chaos.examples.common import Backup, Result, normals


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(37)
    series = np.sin(np.arange(400) / 5).astype("float32") + 0.1 * normals(400)
    windows = np.stack([series[start : start + 16] for start in range(0, 384, 4)])[..., None]
    same = {"kernel_size": 5, "strides": 2, "padding": "same"}
    down = [layers.Conv1D(6, activation="relu", **same), layers.Dropout(0.2)]
    up = [layers.Conv1DTranspose(6, activation="relu", **same)]
    model = keras.Sequential(
        [keras.Input((16, 1)), *down, *up, layers.Conv1DTranspose(1, 5, padding="same")]
    )
    model.compile(keras.optimizers.Adam(3e-2), "mse")
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, mode="min", min_delta=0.1)
    history = model.fit(
        windows,
        windows,
        epochs=6,
        batch_size=16,
        shuffle=False,
        validation_split=0.1,
        verbose=0,
        callbacks=[stop, *backup()],
    )
    errors = np.abs(model.predict(windows, verbose=0) - windows).mean(1)
    return {"model": model, "history": history, "threshold": float(errors.max())}
