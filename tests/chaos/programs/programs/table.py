"""Structured data: a CSV table through a FeatureSpace, with crossed and hashed features."""

import runner
from tests.chaos.examples.feature_space import network, table


def program(*, path: str) -> runner.Program:
    model, data = network(table(path))
    held_out = data.take(2)
    fit = {"x": data.skip(2), "validation_data": held_out}
    return runner.Program(model=model, fit=fit, evaluate={"x": held_out})
