"""A learning rate that rises, and falls like a cosine."""

import keras

import runner
from tests.chaos.examples.common import dense, digits


def program(*, peak: float = 1e-2, steps: int = 30, rising: int = 8) -> runner.Program:
    images, labels = digits(208)
    x = images.reshape(-1, 64)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=peak, warmup_steps=rising
    )
    model = dense(16, 10, inputs=64, activation="softmax")
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return runner.Program(
        model=model,
        fit={"x": runner.Batches(x[:160], labels[:160], batch_size=16, seed=1)},
        evaluate={"x": x[160:], "y": labels[160:]},
        classes=list("0123456789"),
    )
