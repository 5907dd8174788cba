"""Equal state has an equal hash in every process; whatever changes changes it."""

import functools
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from runner.training.digest import attributes, digest
from runner.training.trace import python_state
from tests.training.killing import environment

#: prints a hash of what has no order of its own
ELSEWHERE = """
from runner.training.digest import digest
from runner.training.trace import python_state
class Mine: pass
mine = Mine(); mine.words = {"a", "b", "c"}; mine.table = {w: 1 for w in mine.words}; mine.me = mine
print(digest([mine, object(), print, lambda: 1]))
"""


class Mine:
    __slots__ = ("a", "b")


class Noisy(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.count = 0


def generator() -> tuple[Any, Callable[[], object]]:
    drawn = np.random.default_rng(1)
    return drawn, drawn.random


def old_generator() -> tuple[Any, Callable[[], object]]:
    drawn = np.random.RandomState(1)
    return drawn, drawn.rand


def python_generator() -> tuple[Any, Callable[[], object]]:
    drawn = random.Random(1)
    return drawn, drawn.random


def seed_generator() -> tuple[Any, Callable[[], object]]:
    drawn = keras.random.SeedGenerator(1)
    return drawn, drawn.next


def variable() -> tuple[Any, Callable[[], object]]:
    held = keras.Variable([1.0])
    return {"held": [held]}, lambda: held.assign([2.0])


def closure() -> tuple[Any, Callable[[], object]]:
    held = keras.Variable([1.0])
    return functools.partial(lambda: held), lambda: held.assign([2.0])


def model() -> tuple[Any, Callable[[], object]]:
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return teacher, lambda: teacher.weights[1].assign([3.0])


def containers() -> tuple[Any, Callable[[], object]]:
    table: defaultdict[str, Counter[int]] = defaultdict(Counter)
    return table, lambda: table["a"].update([1])


def slots() -> tuple[Any, Callable[[], object]]:
    mine = Mine()
    mine.a = 1  # type: ignore[attr-defined]
    return mine, lambda: setattr(mine, "a", 2)


MAKERS = [generator, old_generator, python_generator, seed_generator, variable, closure]
MAKERS += [model, containers, slots]


@pytest.mark.parametrize("make", MAKERS)
def test_what_changes_is_seen(make: Callable[[], tuple[Any, Callable[[], object]]]) -> None:
    value, change = make()
    before = digest(value)
    assert digest(value) == before
    change()
    assert digest(value) != before


@pytest.mark.slow
def test_the_same_in_every_process() -> None:
    """No address, and no order of a set, is part of it."""
    found = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env={**environment(), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_kinds_are_told_apart() -> None:
    values = [1, 1.0, True, "1", b"1", [1], (1,), {1}, None, np.float32(1), np.float64(1)]
    assert len({digest(value) for value in values}) == len(values)


def test_kerass_own_attributes_are_left_out() -> None:
    """Of a layer, what its author gave it."""
    layer = Noisy()
    layer.build((None, 2))
    assert attributes(layer) == {"count": 0}


def test_what_is_set_on_keras_s_own_layers() -> None:
    """A drill names the rate or `trainable` that a callback changed, not only what followed."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dropout(0.1)])
    model.compile(keras.optimizers.SGD(), "mse")
    before = python_state(model, [])
    model.layers[0].trainable = False
    model.layers[1].rate = 0.2
    model.optimizer.clipnorm = 1.0
    after = python_state(model, [])
    names = {name for name, value in after.items() if before[name] != value}
    dense, dropout = (layer.name for layer in model.layers)
    assert names == {
        f"layer {dense}.trainable",
        f"layer {dropout}.rate",
        "optimizer SGD.clipnorm",
    }
