"""DCGAN: a `train_step` of its own, two optimizers, no call(); judged by a function."""

from typing import Any

import keras

import runner
from tests.chaos.examples.common import digits, normals, pipeline
from tests.chaos.examples.dcgan import Samples, gan


def judge(model: Any) -> dict[str, Any]:
    pictures = model.generator(normals(16, 6))
    doubt = keras.ops.sigmoid(model.critic(pictures))
    return {"taken_for_fakes": float(keras.ops.mean(doubt)), "pictures": pictures}


def program() -> runner.Program:
    fit = {"x": pipeline(digits(160)[0])}
    return runner.Program(model=gan(), fit=fit, callbacks=[Samples()], evaluate=judge)
