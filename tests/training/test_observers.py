"""What callbacks hold comes back as what it was: kinds, sharing, generators, code with state."""

import collections
import contextvars
import datetime as dt
import functools
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.observing import (
    Holding,
    Interrupted,
    Meter,
    Phase,
    Process,
    Record,
    Score,
    Slotted,
    resumed,
    state_of,
)

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


shared: Any = None


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
