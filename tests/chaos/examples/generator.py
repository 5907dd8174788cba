"""An endless Python generator with steps_per_epoch; nobody else knows where it stands."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tests.chaos.examples.common import Backup, Result, dense


def batches(seed: int) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    while True:
        x = rng.normal(size=(16, 4)).astype("float32")
        yield x, x[:, :1] > rng.normal()


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(41)
    model = dense(8, 1, inputs=4, activation="sigmoid")
    model.compile("adam", "binary_crossentropy")
    history = model.fit(
        batches(1),
        steps_per_epoch=6,
        epochs=3,
        validation_data=batches(2),
        validation_steps=2,
        verbose=0,
        callbacks=backup(),
    )
    return {"model": model, "history": history}
