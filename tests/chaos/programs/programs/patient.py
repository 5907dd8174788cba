"""A small training whose steps take as long as the environment says, which changes no bits."""

import os
import time
from typing import Any

import keras
import numpy as np

import runner

PACE = "PATIENT_STEP_SECONDS"


class Pace(keras.callbacks.Callback):  # type: ignore[misc]
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(float(os.environ.get(PACE, 0)))


def program(*, steps: int = 500) -> runner.Program:
    random = np.random.default_rng(1)
    x = random.normal(size=(32 * steps, 16)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return runner.Program(
        model=model,
        fit={"x": runner.Batches(x, y, batch_size=32, seed=1)},
        callbacks=[Pace()],
        evaluate={"x": x[:256], "y": y[:256]},
    )
