"""The Python state of callbacks comes back into what a new process makes, or is named.

Each test makes the callbacks twice, as two processes would: the first are given to a training,
changed and captured; the state is put into the second. What goes between them is JSON and arrays.
"""

import base64
import collections
import contextvars
import dataclasses
import datetime as dt
import enum
import functools
import io
import json
import random
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from runner import BackupAndRestore
from runner.checkpoint.plain import encode
from runner.errors import CheckpointError
from runner.training.state import looking
from runner.training.state.observers import Observers


class Score(NamedTuple):
    epoch: int
    loss: float


class Phase(enum.Enum):
    WARM = 1
    FULL = 2


@dataclasses.dataclass
class Record:
    best: float
    at: list[int]


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
    assert process.said == []
    return state


def resumed(make: Callable[[], Any], change: Callable[[Any], Any]) -> Any:
    """A callback of a second process, with the first's state in it."""
    state = state_of(make(), change)
    callback = make()
    assert Process(callback).resume(state).said == []
    return callback


# ---------------------------------------------------------------------- kinds

UTC = dt.UTC
IMMUTABLE = [
    *(1, 2**80, -0.0, 1.5, True, None, "text", b"bytes", 1 + 2j, complex(-0.0, float("inf"))),
    *(range(3, 9, 2), slice(1, None, 2), (1, (2.5, "x")), frozenset({1, "a", (2, 3)})),
    *(Score(3, 0.5), Phase.FULL, (Score(1, 0.25), Phase.WARM), float, collections.Counter),
    *(Path("a/b"), dt.date(2026, 2, 3), dt.timedelta(3, 4, 5), np.float32(0.1)),
    dt.datetime(2026, 2, 3, 4, 5, 6, 7),
    dt.datetime(2026, 2, 3, tzinfo=UTC, fold=1),
    dt.datetime(2026, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2), "there")),
    dt.time(4, 5, tzinfo=UTC),
]


@pytest.mark.parametrize("value", IMMUTABLE, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_what_it_was(value: Any) -> None:
    """Also where it was not there at the beginning, and within a list."""
    found = resumed(Holding, lambda c: vars(c).update(value=value, many=[value]))
    for one in (found.value, found.many[0]):
        assert type(one) is type(value)
        assert one == value
        assert isinstance(value, frozenset) or repr(one) == repr(value)


def counted(*names: str) -> Any:
    return collections.Counter(names)


CHANGED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (list, lambda v: v.extend([1, [2]])),
    "floats": (list, lambda v: v.extend(np.random.default_rng(0).random(2000).tolist())),
    "dict": (dict, lambda v: v.update({"a": 1, 2: "b", (1, 2): None})),
    "defaultdict": (lambda: collections.defaultdict(list), lambda v: v["a"].append(1)),
    "own factory": (lambda: collections.defaultdict(lambda: [7]), lambda v: v["a"].append(1)),
    "Counter": (lambda: counted("a"), lambda v: v.update("ab")),
    "OrderedDict": (lambda: collections.OrderedDict(b=1, a=2), lambda v: v.move_to_end("b")),
    "deque": (lambda: collections.deque([1, 2], maxlen=2), lambda v: v.append(3)),
    "set": (lambda: {1}, lambda v: v.add("a")),
    "bytearray": (lambda: bytearray(b"ab"), lambda v: v.extend(b"c")),
    "array": (lambda: np.zeros(3), lambda v: v.__setitem__(1, 5.0)),
    "dataclass": (lambda: Record(1.0, []), lambda v: (vars(v).update(best=0.5), v.at.append(3))),
    "slots": (Slotted, lambda v: setattr(v, "count", 4)),
    "object": (Meter, lambda v: v(0, 0.5)),
    "UserDict": (collections.UserDict, lambda v: v.update(a=1)),
}


def look(value: Any) -> Any:
    """A value as what compares."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    if isinstance(value, Slotted):
        return value.count
    return vars(value) if isinstance(value, Meter) else value


@pytest.mark.parametrize("name", CHANGED)
def test_what_stood_there_at_the_beginning_is_filled_in_place(name: str) -> None:
    make, change = CHANGED[name]
    whole, begun = make(), make()
    change(whole)
    state = state_of(Holding(value=(value := make())), lambda _: change(value))
    callback = Holding(value=begun)
    Process(callback).resume(state)
    assert callback.value is begun  # the script may hold it as well
    assert look(begun) == look(whole)
    assert type(begun) is type(whole)


@pytest.mark.parametrize("name", [n for n in CHANGED if n not in ("own factory", "UserDict")])
def test_what_the_training_made_is_made_again(name: str) -> None:
    make, change = CHANGED[name]
    whole = make()
    change(whole)
    found = resumed(
        lambda: Holding(many=[], one=None),
        lambda c: (vars(c).update(one=whole), c.many.append(whole)),
    )
    assert found.many[0] is found.one
    assert type(found.one) is type(whole)
    assert look(found.one) == look(whole)
    if name == "defaultdict":
        found.one["new"].append(2)
    if name == "deque":
        assert found.one.maxlen == 2


def test_equal_values_of_other_types_are_changes() -> None:
    """1 is no 1.0 and no True, nor is 0.0 -0.0."""
    found = resumed(
        lambda: Holding(a=1, b=0.0, c=1, d=[1]),
        lambda c: (vars(c).update(a=1.0, b=-0.0, c=True), c.d.__setitem__(0, 1.0)),
    )
    assert repr([found.a, found.b, found.c, found.d]) == "[1.0, -0.0, True, [1.0]]"


def test_attributes_that_the_training_removed_are_gone() -> None:
    assert not hasattr(resumed(lambda: Holding(value=1), lambda c: delattr(c, "value")), "value")


def test_tensors_come_back_as_tensors() -> None:
    average = keras.ops.convert_to_tensor(np.array([1, 2], dtype="float32"))
    found = resumed(lambda: Holding(value=None), lambda c: setattr(c, "value", average * 2.0))
    assert type(found.value) is type(average)
    assert keras.ops.convert_to_numpy(found.value).tolist() == [2, 4]


# ---------------------------------------------------------------------- sharing


def test_objects_are_shared_as_they_were() -> None:
    """Between callbacks, with the script, and with a container that holds it twice."""

    def program() -> tuple[Any, Any, Any, Any]:
        shared: dict[str, Any] = {}
        rows: list[Any] = []
        return Holding(shared=shared), Holding(shared=shared, rows=rows), shared, rows

    one, other, shared, rows = program()
    process = Process(one, other)
    shared["sum"] = 1.5
    row = [1]
    rows.extend([row, row, shared])
    state = process.capture()
    one, other, shared, rows = program()
    Process(one, other).resume(state)
    assert one.shared is other.shared is shared is rows[2]
    assert shared == {"sum": 1.5}
    assert rows[0] == [1]
    assert rows[0] is rows[1]


def test_a_callback_that_holds_another_holds_it_after_a_resume() -> None:
    def program() -> list[Any]:
        inner = Holding(count=0)
        return [Holding(inner=inner, now=None), inner]

    outer, inner = program()
    process = Process(outer, inner)
    inner.count = 3
    outer.now = inner
    state = process.capture()
    outer, inner = program()
    Process(outer, inner).resume(state)
    assert inner.count == 3
    assert outer.now is inner


def test_a_callback_that_says_its_state_is_nobody_elses() -> None:
    def program() -> Any:
        return Holding(inner=(inner := Interrupted(3))), inner

    outer, inner = program()
    process = Process(outer, inner)
    inner.left = 2
    state = process.capture()
    outer, inner = program()
    Process(outer, inner).resume(state)
    assert (outer.inner, inner.left) == (inner, 3)


def test_what_stood_elsewhere_at_the_beginning_is_found_there() -> None:
    """Swapped objects and functions, which nobody could make anew."""

    def make() -> Any:
        return Holding(
            plans=[lambda: 1, lambda: 2], plan=None, meters=[Meter(), Meter()], best=None
        )

    def change(callback: Any) -> None:
        callback.plan = callback.plans[1]
        callback.meters[1].total = 2.0
        callback.meters.reverse()
        callback.best = callback.meters[0]

    state = state_of(make(), change)
    callback = make()
    meters = list(callback.meters)
    Process(callback).resume(state)
    assert callback.plan is callback.plans[1]
    assert callback.meters == meters[::-1]
    assert callback.best is meters[1]
    assert [meter.total for meter in meters] == [0.0, 2.0]


def test_keys_that_are_written_alike_are_two_places() -> None:
    def make() -> Any:
        return Holding(rows={1: [], "1": []})

    found = resumed(make, lambda c: (c.rows[1].append(1), c.rows["1"].append(2)))
    assert found.rows == {1: [1], "1": [2]}


def test_a_circle_comes_back_as_one() -> None:
    def change(callback: Any) -> None:
        callback.loop.append(callback.loop)
        callback.node["me"] = callback

    found = resumed(lambda: Holding(loop=[], node={}), change)
    assert found.loop[0] is found.loop
    assert found.node["me"] is found


# ---------------------------------------------------------------------- generators

DRAWS: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "Generator": (np.random.default_rng, lambda g: g.random()),
    "Philox": (lambda seed: np.random.Generator(np.random.Philox(seed)), lambda g: g.random()),
    "RandomState": (np.random.RandomState, lambda g: g.normal()),
    "Random": (random.Random, lambda g: g.random()),
    "spawning": (np.random.default_rng, lambda g: g.spawn(1)[0].random()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_goes_on_where_it_was(name: str) -> None:
    """Whatever seed the new process gave it, and also if the training made it."""
    make, draw = DRAWS[name]
    generator = make(1)
    callback = Holding(given=generator, made=[])
    process = Process(callback)
    callback.made.append(make(2))
    draw(generator)
    draw(callback.made[0])
    state = process.capture()
    expected = [draw(generator), draw(callback.made[0])]
    live = make(1 if name == "spawning" else 9)
    callback = Holding(given=live, made=[])
    Process(callback).resume(state)
    assert callback.given is live
    assert draw(live) == expected[0]
    assert name == "spawning" or draw(callback.made[0]) == expected[1]


# ---------------------------------------------------------------------- code with state

steps = 0
seen: list[int] = []


class Scripted(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps its state where scripts keep it: in globals and in the class."""

    rows: list[int] = []  # noqa: RUF012 - as scripts have it
    count = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        global steps
        steps += 1
        seen.append(epoch)
        self.rows.append(epoch)
        Scripted.count += 1


def test_globals_and_class_attributes_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]

    def fresh() -> None:
        monkeypatch.setattr(module, "steps", 0)
        monkeypatch.setattr(module, "seen", [])
        monkeypatch.setattr(Scripted, "rows", [])
        monkeypatch.setattr(Scripted, "count", 0)

    fresh()
    state = state_of(callback := Scripted(), lambda _: callback.on_epoch_end(3))
    fresh()
    in_script = seen
    Process(Scripted()).resume(state)
    assert (steps, seen, Scripted.rows, Scripted.count) == (1, [3], [3], 1)
    assert seen is in_script


def test_what_is_kept_in_another_module_of_the_program_comes_back() -> None:
    settings: Any = types.ModuleType("settings_of_the_program")

    class Raises(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            shared.level += 1
            shared.inner.factor = 0.5
            shared.seen.append(epoch)

    def program() -> Any:
        settings.level, settings.seen, settings.other = 0, [], 0
        settings.inner = types.ModuleType("settings_of_the_program.inner")
        settings.inner.factor = 1.0
        return Raises()

    globals()["shared"] = settings
    state = state_of(program(), lambda c: c.on_epoch_end(3))
    Process(program()).resume(state)
    assert (settings.level, settings.inner.factor, settings.seen) == (1, 0.5, [3])


shared: Any = None
context = contextvars.ContextVar("context", default=0)


class Hides(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.local()
        self.weak: Any = weakref.WeakKeyDictionary()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        context.set(epoch)


def test_what_only_its_holder_can_read_is_named() -> None:
    process = Process(Hides())
    process.capture()
    names = [text.partition(" is not saved")[0] for text in process.said]
    assert sorted(names) == ["Hides.on_epoch_end.context", "Hides.thread", "Hides.weak"]


def counting() -> Callable[..., float]:
    count = 0
    rates: list[float] = []

    def schedule(epoch: int, rate: float, calls: list[int] = []) -> float:  # noqa: B006
        nonlocal count
        count += 1
        rates.append(rate)
        calls.append(epoch)
        vars(schedule)["total"] = vars(schedule).get("total", 0) + 1
        return rate * count * len(rates) * len(calls) * float(vars(schedule)["total"])

    return schedule


def bound() -> Callable[..., float]:
    return Meter().__call__


def partly() -> Callable[..., float]:
    def schedule(memory: dict[str, int], epoch: int, rate: float) -> float:
        memory["calls"] = memory.get("calls", 0) + 1
        return rate * memory["calls"]

    return functools.partial(schedule, {})


def wrapped() -> Callable[..., float]:
    inner = counting()

    @functools.wraps(inner)
    def outer(*arguments: Any) -> float:
        return inner(*arguments)

    return outer


@pytest.mark.parametrize("make", [counting, Meter, bound, partly, wrapped])
def test_a_schedule_that_counts_goes_on_counting(make: Callable[[], Any]) -> None:
    def program() -> Any:
        return keras.callbacks.LearningRateScheduler(make())

    first = program()
    state = state_of(first, lambda c: [c.schedule(epoch, 0.5) for epoch in range(3)])
    second = program()
    Process(second).resume(state)
    assert second.schedule(3, 0.5) == first.schedule(3, 0.5)


def test_lambdas_in_a_lambda_callback_go_on() -> None:
    def program() -> tuple[Any, list[Any]]:
        losses: list[float] = []
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: losses.append(logs)
        ), losses

    callback, _ = program()
    state = state_of(callback, lambda c: c.on_epoch_end(0, 0.5))
    callback, losses = program()
    Process(callback).resume(state)
    assert losses == [0.5]


def test_extra_objects_are_taken_like_callbacks() -> None:
    class Own(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.generator = np.random.default_rng(1)

        def call(self, x: Any) -> Any:
            self.calls += 1
            return x + self.generator.random()

    layer = Own()
    process = Process(extra=[("own", layer)])
    layer(np.ones(1))
    state = process.capture()
    assert {name for _, name in process.observers.covered()} >= {"calls"}
    expected = float(layer(np.ones(1))[0])
    layer = Own()
    assert Process(extra=[("own", layer)]).resume(state).said == []
    assert layer.calls == 1
    assert float(layer(np.ones(1))[0]) == expected


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("mode", ["w", "a", "w+", "wb", "ab", "r+b"])
def test_a_file_is_put_back_to_its_length_and_position(tmp_path: Path, mode: str) -> None:
    """Rows that were written after the checkpoint are gone, those before it are there."""
    text = (lambda value: value.encode()) if "b" in mode else str
    path = tmp_path / "log"
    path.write_text("before\n")
    callback = Holding(file=path.open(mode))
    process = Process(callback)
    callback.file.write(text("one\n"))
    state = process.capture()
    callback.file.write(text("two\n"))
    callback.file.flush()
    whole = path.read_text()
    callback.file.close()
    path.write_text("other words than those")
    callback = Holding(file=path.open(mode))
    Process(callback).resume(state)
    callback.file.write(text("two\n"))
    callback.file.close()
    assert path.read_text() == whole


def test_a_large_file_is_cut_to_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.training.state.files.MOST_BYTES", 3)
    path = tmp_path / "log"
    callback = Holding(file=path.open("a"))
    process = Process(callback)
    callback.file.write("one\n")
    state = process.capture()
    callback.file.write("two\n")
    callback.file.close()
    callback = Holding(file=path.open("a"))
    assert Process(callback).resume(state).said == []
    assert path.read_text() == "one\n"
    callback = Holding(file=path.open("w"))
    (said,) = Process(callback).resume(state).said
    assert "Holding.file is not restored (4 of its 4 bytes are not in" in said


def test_a_file_of_a_training_that_has_ended_is_whole(tmp_path: Path) -> None:
    """A program that is run once more opens it anew, and fit only closes it."""
    path = tmp_path / "log"
    callback = Holding(file=path.open("w"))
    process = Process(callback)
    callback.file.write("all\n")
    callback.file.close()
    state = process.capture()
    callback = Holding(file=path.open("w"))
    process = Process(callback).resume(state)
    callback.file.close()
    assert path.read_text() == "all\n"
    path.unlink()
    process.resume(state)
    assert path.read_text() == "all\n"


def test_a_file_for_reading_and_one_in_memory_go_on(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("0123456789")

    def make() -> Any:
        return Holding(file=(tmp_path / "data").open(), text=io.StringIO(), raw=io.BytesIO(b"xy"))

    found = resumed(make, lambda c: (c.file.read(3), c.text.write("ä\r\n"), c.raw.read(1)))
    assert found.file.read(1) == "3"
    assert (found.text.getvalue(), found.text.tell()) == ("ä\r\n", 3)
    assert found.raw.read() == b"y"


@pytest.mark.parametrize("append", [False, True])
def test_a_csv_file_continues_at_another_place(tmp_path: Path, append: bool) -> None:
    logs = {"loss": 0.5, "val_loss": 0.25}

    def run(process: int, *epochs: int) -> Any:
        callback = keras.callbacks.CSVLogger(str(tmp_path / f"{process}.csv"), append=append)
        return callback, Process(callback, begin=callback.on_train_begin), epochs

    callback, process, _ = run(1)
    callback.on_epoch_end(0, logs)
    state = process.capture()
    for epoch in (1, 2):
        callback.on_epoch_end(epoch, logs)
    callback, process, _ = run(2)
    process.resume(state)
    assert ["filename is" in text for text in process.said] == [True]
    for epoch in (1, 2):
        callback.on_epoch_end(epoch, logs)
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()


def test_a_csv_file_without_rows_gets_its_header(tmp_path: Path) -> None:
    """The file of the first process is there when the second begins: it takes it for begun."""

    def run() -> Any:
        callback = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"), append=True)
        return callback, Process(callback, begin=callback.on_train_begin)

    callback, process = run()
    state = process.capture()
    callback.on_epoch_end(0, {"loss": 0.5})
    whole = (tmp_path / "log.csv").read_text()
    callback, process = run()
    process.resume(state)
    callback.on_epoch_end(0, {"loss": 0.5})
    assert (tmp_path / "log.csv").read_text() == whole


# ---------------------------------------------------------------------- configuration


def test_what_was_given_is_the_programs_and_what_changed_is_the_checkpoints() -> None:
    def make(**values: Any) -> Any:
        given = {"patience": 2, "wait": 0, "rates": [0.1], "rows": [], "meter": Meter()}
        return Holding(**(given | values))

    def change(callback: Any) -> None:
        callback.wait = 1
        callback.rows.append(1)
        callback.meter.total = 0.5

    state = state_of(make(), change)
    callback = make(patience=9, wait=7, rates=[0.3], rows=[5])
    process = Process(callback).resume(state)
    assert (callback.patience, callback.wait, callback.rates, callback.rows) == (9, 1, [0.3], [1])
    assert callback.meter.total == 0.5
    assert process.said == [
        "Holding.patience is 9 now, was 2: the program's is taken.",
        "Holding.rates is [0.3] now, was [0.1]: the program's is taken.",
    ]
    process.resume(state)
    assert len(process.said) == 2


def test_a_value_that_changed_and_changed_back_is_the_checkpoints() -> None:
    """Also two processes later."""
    callback = Holding(phase=1, rows=[1])
    process = Process(callback)
    callback.phase = 2
    callback.rows.append(2)
    process.capture()
    callback.phase = 1
    callback.rows.pop()
    state = process.capture()
    for given in (1, 4):
        callback = Holding(phase=given, rows=[given])
        process = Process(callback).resume(state)
        assert (callback.phase, callback.rows, process.said) == (1, [1], [])
        state = process.capture()


def test_the_beginning_of_the_training_does_not_change_what_was_given() -> None:
    """What on_train_begin makes of it in this process was undone in the other one."""
    state = state_of(Holding(count=5, rows=[1]), lambda _: None)
    callback = Holding(count=5, rows=[1])

    def begin() -> None:
        callback.count = 0
        callback.rows.clear()

    Process(callback, begin=begin).resume(state)
    assert (callback.count, callback.rows) == (5, [1])


def stopping(**arguments: Any) -> Any:
    callback = keras.callbacks.EarlyStopping("loss", mode="min", **arguments)
    callback.set_model(keras.Sequential())
    return callback


def test_a_monitor_keeps_its_state_and_takes_new_arguments() -> None:
    """Keras flips the sign of min_delta at the first epoch's end."""
    callback = stopping(patience=3, min_delta=0.5)
    process = Process(callback, begin=callback.on_train_begin)
    for epoch, loss in enumerate([1.0, 0.9, 0.8]):
        callback.on_epoch_end(epoch, {"loss": loss})
    state = process.capture()
    whole = {k: v for k, v in vars(callback).items() if k not in ("_model", "params")}
    assert (whole["wait"], whole["best"], whole["min_delta"]) == (2, 1.0, -0.5)
    callback = stopping(patience=3, min_delta=0.5)
    assert Process(callback, begin=callback.on_train_begin).resume(state).said == []
    assert {k: v for k, v in vars(callback).items() if k not in ("_model", "params")} == whole
    callback = stopping(patience=8, min_delta=0.25)
    process = Process(callback, begin=callback.on_train_begin).resume(state)
    assert (callback.patience, callback.min_delta, callback.wait) == (8, -0.25, 2)
    process.resume(state)
    assert callback.min_delta == -0.25
    assert [text.split(":")[0] for text in process.said] == [
        "EarlyStopping.min_delta is 0.25 now, was 0.5",
        "EarlyStopping.patience is 8 now, was 3",
    ]


def test_places_and_times_of_this_process_are_its_own(tmp_path: Path) -> None:
    """Set when the training begins, by a clock or for a folder that is gone."""

    class Timed(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.made_at = time.time()
            self.folder = folder

        def on_train_begin(self, logs: Any = None) -> None:
            self.folder.mkdir()
            self.place = str(self.folder)
            self.began = time.time()
            self.ticks = time.monotonic()
            self.today = dt.datetime.now()
            self.draw = random.random()

    first = Timed(tmp_path / "a")
    process = Process(first, begin=first.on_train_begin)
    state = process.capture()
    assert process.said == []
    (tmp_path / "a").rmdir()
    second = Timed(tmp_path / "b")
    process = Process(second, begin=second.on_train_begin)
    own = dict(vars(second))
    process.resume(state)
    assert ["folder is" in text for text in process.said] == [True]
    assert vars(second) == own | {"draw": first.draw}


def test_a_best_model_that_did_not_come_along_is_said(tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        path = folder / "{epoch}.weights.h5"
        return keras.callbacks.ModelCheckpoint(
            str(path), monitor="loss", save_best_only=True, save_weights_only=True
        )

    state = state_of(make(tmp_path), lambda c: vars(c).update(best=0.5, _current_epoch=3))
    callback = make(tmp_path)
    process = Process(callback).resume(state)
    assert (callback.best, callback._current_epoch) == (0.5, 3)
    (said,) = process.said
    assert "the best model so far (loss 0.5) is not at" in said
    (tmp_path / "2.weights.h5").touch()
    assert Process(make(tmp_path)).resume(state).said == []


# ---------------------------------------------------------------------- what can't be taken


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


# ---------------------------------------------------------------------- reading


class Unmade:
    """Of the program, and yet not called."""

    def __new__(cls) -> Any:
        raise AssertionError("called by name")


def test_what_is_made_again_is_not_called() -> None:
    unmade: Any = object.__new__(Unmade)
    vars(unmade)["value"] = 3
    found = resumed(lambda: Holding(value=None), lambda c: setattr(c, "value", unmade))
    assert type(found.value) is Unmade
    assert vars(found.value) == {"value": 3}


@pytest.mark.parametrize(
    "name",
    [["subprocess", "Popen"], ["os", "system"], ["builtins", "eval"], ["pathlib", "Path"]],
)
def test_reading_makes_nothing_that_the_data_name(name: list[str]) -> None:
    data, arrays = state_of(Holding(value=None), lambda c: setattr(c, "value", Record(1.0, [])))
    before = set(sys.modules)
    nodes = data["callbacks"]["nodes"]
    made = next(node for node in nodes.values() if node.get("class", [""])[-1] == "Record")
    made["class"] = name
    callback = Holding(value=None)
    process = Process(callback).resume((data, arrays))
    assert callback.value is None
    assert any("Holding.value is not restored" in text for text in process.said)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "list", "content": {}},
        {"kind": "none"},
        {"kind": "object", "fields": {"a": {"!no": 1}}},
        3,
    ],
)
def test_foreign_data_is_a_checkpoint_error(wrong: Any) -> None:
    data, arrays = state_of(Holding(a=1), lambda c: setattr(c, "a", 2))
    data["callbacks"]["nodes"]["Holding"] = wrong
    with pytest.raises(CheckpointError):
        Process(Holding(a=1)).resume((data, arrays))


def test_a_state_of_the_first_form_is_restored(tmp_path: Path) -> None:
    """As runner wrote it before objects had places."""
    rows = base64.b64encode(b"epoch,loss\n0,0.5\n").decode()
    log = {"keys": ["loss"], "sep": ",", "filename": str(tmp_path / "log.csv")}
    data = {
        "callbacks": [
            ["EarlyStopping", {"attributes": {"wait": 2, "min_delta": -0.5}, "monitor_op": "less"}],
            ["CSVLogger", {"attributes": log, "csv": {"!bytes": rows}}],
            ["Gone", {"attributes": {"a": 1}}],
        ],
        "random": encode(random.getstate(), lambda path, _: path),
        "numpy": encode(np.random.get_state(), lambda path, _: path, "numpy"),
    }
    monitor, logger = stopping(), keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    process = Process(monitor, logger, begin=logger.on_train_begin)
    process.resume((data, {"numpy/1": np.random.get_state(legacy=False)["state"]["key"]}))
    assert (monitor.wait, monitor.min_delta, monitor.monitor_op) == (2, -0.5, keras.ops.less)
    logger.on_epoch_end(1, {"loss": 0.25})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,0.5\n1,0.25\n"
    assert process.said == ["the callback Gone of the checkpoint is not there any more."]


# ---------------------------------------------------------------------- in a fit


class Restless(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the rate by all that it remembers."""

    def __init__(self, shared: Any, generator: Any) -> None:
        super().__init__()
        self.shared = shared
        self.generator = generator
        self.last: Any = collections.deque(maxlen=2)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.shared[batch].append(Score(batch, float(logs["loss"])))
        self.last.append(self.generator.random())
        count = sum(map(len, self.shared.values()))
        self.model.optimizer.learning_rate = sum(self.last) / (10 + count)


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


def fit(folder: Path, seed: int, after: int) -> Any:
    keras.utils.set_random_seed(1)
    shared: Any = collections.defaultdict(list)
    losses: list[float] = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((12, 2)).astype("float32")
    callbacks = [
        Restless(shared, np.random.default_rng(seed)),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: losses.append(logs["loss"])),
        Interrupted(after),
        BackupAndRestore(str(folder), save_freq=1),
    ]
    model.fit(x, x[:, :1], batch_size=4, epochs=4, verbose=0, callbacks=callbacks, shuffle=False)
    return shared, losses, [weight.tobytes() for weight in model.get_weights()]


def test_a_training_that_its_callbacks_steer_is_the_same_after_interruptions(
    tmp_path: Path,
) -> None:
    whole = fit(tmp_path / "whole", 1, 0)
    for seed, after in ((1, 2), (2, 4), (3, 3)):
        with pytest.raises(RuntimeError):
            fit(tmp_path / "again", seed, after)
    again = fit(tmp_path / "again", 4, 0)
    assert again == whole
    assert type(again[0]) is collections.defaultdict


def test_the_callbacks_of_a_job_need_no_word() -> None:
    """Classes of this package are machines to it, but for the callbacks that a spec asks for."""
    from runner.training.trainer import _stop_at_nan

    said: list[str] = []
    observers = Observers([_stop_at_nan("")], warn=said.append)
    observers.begin()
    observers.capture()
    assert said == []
