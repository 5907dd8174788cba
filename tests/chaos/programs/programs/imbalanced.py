"""Class weights, and metrics with states; arrays as they are, in an order that fit makes."""

import runner
from tests.chaos.examples.imbalanced import imbalanced, network


def program() -> runner.Program:
    x, y, weights = imbalanced()
    return runner.Program(
        model=network(),
        fit={
            "x": x,
            "y": y,
            "batch_size": 10,
            "validation_data": (x[:20], y[:20]),
            "class_weight": weights,
        },
        evaluate={"x": x[:20], "y": y[:20]},
    )
