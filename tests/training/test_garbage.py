"""The collector of cycles stays out of a training's way, and is itself again afterwards."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import pytest

from runner import spec as specs
from runner.errors import PreemptedError
from runner.queue.queue import Queue
from runner.store.memory import MemoryStore
from runner.training.garbage import Collector
from runner.training.progress import Progress
from runner.training.trainer import train

ONE: dict[str, Any] = {
    "name": "one",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp"},
    "training": {"epochs": 2, "batch_size": 128, "threads": 1},
}
Look = tuple[int, bool, bool]  #: step, whether it collects, whether it passes something over


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def run(look: Callable[[Look], None], should_stop: Callable[[], str | None] = lambda: None) -> None:
    def on_progress(progress: Progress) -> None:
        look((progress.global_step, gc.isenabled(), gc.get_freeze_count() > 100_000))

    store = MemoryStore()
    queue = Queue(store)
    spec = specs.parse(ONE, source="test")
    job = queue.submit("one", spec.effective())
    lease = queue.claim(job, {"host": "here", "pid": 1})
    train(
        spec,
        store=store,
        prefix="jobs/one",
        token=lease.token,
        commit=lease.commit,
        should_stop=should_stop,
        on_progress=on_progress,
    )


def test_it_rests_until_the_first_step_and_then_passes_over_what_is_there() -> None:
    looks: list[Look] = []
    run(looks.append)
    assert {look[1:] for look in looks if look[0] == 0} == {(False, False)}
    assert {look[1:] for look in looks if look[0] > 0} == {(True, True)}
    assert gc.isenabled()
    assert gc.get_freeze_count() < 1000


def test_it_is_itself_again_after_a_training_that_was_stopped() -> None:
    steps: list[int] = []

    def stop() -> str | None:
        return "SIGTERM" if steps and steps[-1] >= 3 else None

    def look(look: Look) -> None:
        steps.append(look[0])

    with pytest.raises(PreemptedError):
        run(look, stop)
    assert gc.isenabled()
    assert gc.get_freeze_count() < 1000


def test_who_has_switched_it_off_finds_it_so() -> None:
    gc.disable()
    looks: list[Look] = []
    run(looks.append)
    assert {look[1:] for look in looks} == {(False, False)}
    assert not gc.isenabled()


class Cycle:
    def __init__(self, freed: list[str]) -> None:
        self.itself, self.freed = self, freed

    def __del__(self) -> None:
        self.freed.append("freed")


def test_what_it_passes_over_already_is_left_to_who_has_asked_for_it() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    assert count > 100_000
    run(lambda _: None)
    assert gc.isenabled()
    assert gc.get_freeze_count() == pytest.approx(count, rel=0.01)  # what died meanwhile is gone


def test_an_earlier_training_is_gone_when_the_next_makes_its_first_step() -> None:
    """A worker does one job after the other in one process."""
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def look(look: Look) -> None:
        if look[0] == 1:
            alive.append(sum(model() is not None for model in models))

    real = keras.Model.compile

    def compile_it(model: Any, *arguments: Any, **named: Any) -> None:
        models.append(weakref.ref(model))
        real(model, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "compile", compile_it)
        for _ in range(3):
            run(look)
    assert alive == [1, 1, 1]


def test_what_an_earlier_fit_left_goes_before_the_next() -> None:
    freed: list[str] = []
    collector = Collector()
    collector.rest()
    cycle = Cycle(freed)
    collector.pass_over()
    del cycle
    gc.collect()
    assert freed == []  # it was passed over
    collector.rest()
    assert freed == ["freed"]
    collector.release()


def test_only_what_went_before_is_looked_for() -> None:
    """A fresh process has nothing to be collected, however often it is told to rest."""
    collections: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collections.append(info["generation"])

    gc.callbacks.append(count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Collector, "_worked", False)
            collector = Collector()
            collector.rest()
            collector.rest()
            assert collections.count(2) == 0
            collector.pass_over()
            collector.rest()
            assert collections.count(2) == 1
            collector.release()
    finally:
        gc.callbacks.remove(count)
