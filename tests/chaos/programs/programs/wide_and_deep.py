"""Two inputs by name, two outputs with losses, weights and metrics of their own."""

import runner
from tests.chaos.examples.wide_and_deep import network


def program() -> runner.Program:
    model, data = network()
    return runner.Program(model=model, fit={"x": data}, evaluate={"x": data})
