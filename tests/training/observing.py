"""Callbacks whose state is captured and restored in the tests."""

import dataclasses
import enum
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from runner.training.state.observers import Observers


class Score(NamedTuple):
    epoch: int
    loss: float


@dataclasses.dataclass
class Record:
    best: float
    at: list[int]


class Phase(enum.Enum):
    WARM = 1
    FULL = 2


class Slotted:
    __slots__ = ("count", "unset")

    def __init__(self) -> None:
        self.count = 0


class Meter:
    """An object of the user's, with state of its own."""

    def __init__(self) -> None:
        self.total = 0.0
        self.values: list[float] = []

    def __call__(self, epoch: int, rate: float) -> float:
        self.total += rate
        self.values.append(rate)
        return self.total


class Holding(keras.callbacks.Callback):  # type: ignore[misc]
    """Holds what it is given."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.__dict__.update(values)


class Process:
    """One process's callbacks, seen from where fit begins."""

    def __init__(self, *callbacks: Any, extra: Any = (), begin: Callable[[], Any] = int) -> None:
        self.said: list[str] = []
        self.observers = Observers(callbacks, warn=self.said.append, extra=extra)
        begin()
        self.observers.begin()

    def capture(self) -> tuple[Any, Any]:
        data, arrays = self.observers.capture()
        return json.loads(json.dumps(data, allow_nan=False)), dict(arrays)

    def resume(self, state: tuple[Any, Any]) -> "Process":
        self.observers.restore(*state)
        return self


def state_of(callback: Any, change: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The state after a change that a training made, all of which could be taken."""
    process = Process(callback)
    change(callback)
    state = process.capture()
    assert process.said == [], process.said
    return state


def resumed(make: Callable[[], Any], change: Callable[[Any], Any]) -> Any:
    """A callback of a second process, with the first's state in it."""
    state = state_of(make(), change)
    callback = make()
    assert Process(callback).resume(state).said == []
    return callback


def stopping(**arguments: Any) -> Any:
    callback = keras.callbacks.EarlyStopping("loss", mode="min", **arguments)
    callback.set_model(keras.Sequential())
    return callback


class Interrupted(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def get_state(self) -> Any:
        return {}

    def set_state(self, state: Any) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("interrupted")


class Unmade:
    """Of the program, and yet not called."""

    def __new__(cls) -> Any:
        raise AssertionError("called by name")
