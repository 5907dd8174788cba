"""Variational autoencoder: a `train_step` of its own, no call(), no test_step."""

from typing import Any

import keras

import runner
from tests.chaos.examples.common import digits
from tests.chaos.examples.vae import vae


def program(*, count: int = 160) -> runner.Program:
    x = digits(count + 32)[0].reshape(-1, 64)
    held_out = x[count:]

    def judge(model: Any) -> dict[str, Any]:
        mean, _, _ = model.encoder(held_out)
        lost = keras.losses.mean_squared_error(held_out, model.decoder(mean))
        return {"lost": float(keras.ops.mean(lost)), "codes": mean}

    return runner.Program(model=vae(), fit={"x": x[:count], "batch_size": 16}, evaluate=judge)
