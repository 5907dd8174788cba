"""A loss and a metric of its own, which keep states."""

import runner
from tests.chaos.examples.common import normals
from tests.chaos.examples.quantiles import network


def program() -> runner.Program:
    x = normals(208, 4)
    y = x[:, :1] + normals(208, 1, seed=1)
    return runner.Program(
        model=network(),
        fit={"x": x[:184], "y": y[:184], "batch_size": 16, "validation_split": 24 / 184},
        evaluate={"x": x[184:], "y": y[184:]},
    )
