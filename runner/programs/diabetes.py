"""Predict how far diabetes has progressed after a year: a regression on a table of 442 patients."""

from typing import Annotated, Any

import keras
import numpy as np
from annotated_types import Ge
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

import runner


def program(
    *, units: Annotated[int, Ge(1)] = 32, learning_rate: float = 3e-2, seed: int = 0
) -> runner.Program:
    """A network with one hidden layer.

    Args:
        units: of the hidden layer.
        learning_rate: of AdamW, which begins with it and ends with nothing.
        seed: of the division into 60 % to train, 20 % to validate and 20 % to test with.
    """
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=seed)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.25, random_state=seed)
    normalize = keras.layers.Normalization()
    normalize.adapt(x)
    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            normalize,
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(1),
            keras.layers.Rescaling(scale=float(y.std()), offset=float(y.mean())),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps=900)
    model.compile(keras.optimizers.AdamW(rate), "mse", metrics=["mae"])

    def evaluate(model: keras.Model) -> dict[str, Any]:
        predicted = model.predict(x_test, verbose=0)[:, 0]
        return {
            "mae": np.abs(predicted - y_test).mean(),
            "r2": r2_score(y_test, predicted),
            "predicted": predicted,
            "measured": y_test,
        }

    return runner.Program(
        model=model,
        fit={
            "x": runner.Batches(x, y, batch_size=32, seed=seed),
            "validation_data": (x_val, y_val),
        },
        evaluate=evaluate,
    )
