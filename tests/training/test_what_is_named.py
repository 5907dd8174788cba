"""What can't be saved of a callback is named, once; what needs no word gets none."""

import functools
import json
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import BackupAndRestore
from runner.training.state import looking
from tests.training.observing import Holding, Process, state_of
from tests.training.test_observers import Scripted


class Reduced:
    pass


def later_objects() -> dict[str, Any]:
    class Local:
        """No module shows it."""

    return {
        "function": lambda: 0,
        "partial": functools.partial(print),
        "lock": threading.Lock(),
        "local": Local(),
        "texts": np.array(["cat"]),
        "foreign": np.arange(3).astype(">i8"),
        "iterator": iter([1, 2]),
        "deep": json.loads("[" * 200 + "]" * 200),
        "many": [()] * (looking.MOST_OBJECTS + 1),
        "weak": weakref.ref(Reduced),
        "within": {"list": [threading.Lock()]},
        "masked": np.ma.masked_array([1.0], mask=[True]),
    }


@pytest.mark.parametrize("name", later_objects())
@pytest.mark.parametrize("attribute", ["value", "writer", "progbar", "validation_data"])
def test_what_came_later_and_can_not_be_taken_is_named_once(name: str, attribute: str) -> None:
    callback = Holding(count=0, **{attribute: None})
    process = Process(callback)
    setattr(callback, attribute, later_objects()[name])
    callback.count = 1
    state = process.capture()
    process.capture()
    (said,) = process.said
    assert said.startswith(f"Holding.{attribute} is not saved in checkpoints (")
    callback = Holding(count=0, **{attribute: None})
    Process(callback).resume(state)
    assert callback.count == 1  # all else is there
    assert getattr(callback, attribute) is None


def test_code_and_machinery_that_stay_need_no_word(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    same: dict[str, Any] = {
        **{k: v for k, v in later_objects().items() if k in ("function", "partial", "lock")},
        "class": Reduced,
        "module": json,
        "text": np.array(["cat"]),
        "weak": weakref.ref(Reduced),
        "layer": model.layers[0],
        "average": keras.Variable(1.0),
        "model": model,
        "metric": keras.metrics.Mean(),
        "optimizer": keras.optimizers.SGD(),
        "std": sys.stdout,
        "seed": keras.random.SeedGenerator(1),
        "thread": threading.Thread(),
        "ufunc": np.add,
        "backup": BackupAndRestore(str(tmp_path)),
        "loss": keras.losses.MeanSquaredError(),
    }
    process = Process(callback := Holding(**same))
    callback.copy = keras.models.clone_model(model)  # those that hold variables find them
    process.capture()
    assert process.said == []


def test_an_object_that_nobody_can_look_into_is_named() -> None:
    process = Process(Holding(values=iter([1, 2]), inner=[iter([1])]))
    process.capture()
    assert len(process.said) == 2
    assert "Holding.values is not saved" in process.said[0]
    assert "list_iterator, which may have a state of its own" in process.said[0]


def test_a_machine_of_an_installed_library_is_left_alone() -> None:
    """Its locks and threads are of this process; what is plain data is taken."""
    library: Any = type("Library", (), {"__module__": "pytest"})
    process = Process(callback := Holding(machine=library(), scaler=library()))
    callback.machine.lock = threading.Lock()
    callback.machine.count = 1
    callback.scaler.mean = 1.5
    state = process.capture()
    (said,) = process.said
    assert said.startswith("Holding.machine is not saved in checkpoints (a pytest.Library")
    Process(callback := Holding(machine=library(), scaler=library())).resume(state)
    assert callback.scaler.mean == 1.5
    assert not hasattr(callback.machine, "count")


class Wild:
    """Raises wherever it is touched."""

    def __init__(self) -> None:
        object.__setattr__(self, "count", 0)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __repr__ = __getattr__  # type: ignore

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @property
    def worse(self) -> Any:
        raise RuntimeError("no property")


def test_no_object_ends_the_training() -> None:
    """None of its code is run."""

    class Speaking(keras.callbacks.Callback):  # type: ignore[misc]
        def get_state(self) -> Any:
            raise RuntimeError("not now")

        def set_state(self, state: Any) -> None:
            raise AssertionError

    wild = Wild()
    process = Process(Holding(wild=wild, many=[wild, {"a": wild}]), Speaking())
    object.__setattr__(wild, "count", 1)
    state = process.capture()
    assert process.said == ["the state of Speaking is not saved: RuntimeError('not now')"]
    wild = Wild()
    Process(Holding(wild=wild, many=[wild, {"a": wild}]), Speaking()).resume(state)
    assert object.__getattribute__(wild, "count") == 1


def test_callbacks_that_came_or_went_are_said() -> None:
    process = Process(Holding(a=1)).resume(state_of(Scripted(), lambda _: None))
    assert process.said == [
        "the callback Holding was not there when the checkpoint was written.",
        "the callback Scripted of the checkpoint is not there any more.",
    ]
