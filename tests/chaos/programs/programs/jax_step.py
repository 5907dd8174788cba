"""A `train_step` of its own in JAX: pure functions of all state."""

from typing import Any

import runner
from tests.chaos.examples.common import digits
from tests.chaos.examples.jax_step import network


def program() -> runner.Program:
    images, labels = digits(192)

    def judge(model: Any) -> dict[str, Any]:
        guesses = model.predict(images[160:], verbose=0)
        return {"right": float((guesses.argmax(1) == labels[160:]).mean()), "guesses": guesses}

    return runner.Program(
        model=network(),
        fit={"x": runner.Batches(images[:160], labels[:160], batch_size=16, seed=5)},
        evaluate=judge,
    )
