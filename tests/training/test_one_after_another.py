"""Trainings one after the other in one process, as a worker does its jobs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import keras
import pytest

from runner import spec as specs
from runner.checkpoint.reading import read_manifest
from runner.errors import PreemptedError
from runner.queue.queue import Queue
from runner.training import numerics
from runner.training.host import Host
from runner.training.progress import Progress
from runner.training.trainer import Past, train
from tests.store.memory import MemoryStore

ONE: dict[str, Any] = {
    "name": "one",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp"},
    "training": {"epochs": 2, "batch_size": 128, "threads": 1},
}


def run(look: Callable[[Progress], None], stop: Callable[[], str | None] = lambda: None) -> None:
    store = MemoryStore()
    queue = Queue(store)
    spec = specs.parse(ONE, source="test")
    job = queue.submit("one", spec.effective())
    lease = queue.claim(job, {"host": "here", "pid": 1})

    class Worker(Host):
        commit = staticmethod(lease.commit)

        def should_stop(self) -> str | None:
            return stop()

        def progressed(self, progress: Progress) -> None:
            look(progress)

    train(spec, Past(store=store, prefix="jobs/one", token=lease.token), Worker())


@pytest.mark.slow
def test_an_earlier_training_is_gone_after_the_first_step_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its network and its data would lie there as long as the next one trains."""
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def look(progress: Progress) -> None:
        if progress.global_step == 1:
            alive.append(sum(model() is not None for model in models))

    real = keras.Model.compile

    def compile_it(model: Any, *arguments: Any, **named: Any) -> None:
        models.append(weakref.ref(model))
        real(model, *arguments, **named)

    monkeypatch.setattr(keras.Model, "compile", compile_it)
    for _ in range(3):
        run(look)
    assert alive == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("phased", [False, True])
def test_a_job_that_was_stopped_twice_ends_with_the_same_bits(phased: bool) -> None:
    """Within an epoch, a validation or a phase: it resumes by arguments of fit alone."""
    phases = [{"epochs": 1, "train_from": 1}, {"epochs": 2}]
    kind = {"phases": phases} if phased else {"epochs": 3}
    training = {"batch_size": 128, "threads": 1, **kind}
    spec = specs.parse({**ONE, "training": training}, source="test")

    def trained(*stops: int) -> tuple[list[int], str, Any]:
        queue = Queue(MemoryStore())
        job = queue.submit("one", spec.effective())
        stopped = []
        for stop in (*stops, 10**9):
            lease = queue.claim(job, {"host": "here", "pid": 1})
            questions = iter(range(stop))

            class Worker(Host):
                commit = staticmethod(lease.commit)

                def should_stop(self, left: Iterator[int] = questions) -> str | None:
                    return "SIGTERM" if next(left, None) is None else None

            past = Past(
                store=queue.store,
                prefix="jobs/one",
                token=lease.token,
                checkpoints=lease.job.checkpoints,
            )
            try:
                final = train(spec, past, Worker()).final
            except PreemptedError as error:
                lease.release(str(error))
                job = queue.job("one")
                stopped.append(job.step)
        return stopped, final.digest, read_manifest(queue.store, final.manifest).history

    stopped, *ended = trained(8, 14)
    assert len(set(stopped)) == 2
    assert tuple(ended) == trained()[1:]


@pytest.mark.slow
def test_a_later_attempt_has_as_many_threads_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are part of the bits: another machine's cores don't count."""
    spec = specs.parse({**ONE, "training": {"epochs": 2, "batch_size": 128}}, source="test")
    queue = Queue(MemoryStore())
    job = queue.submit("one", spec.effective())
    asked: list[int | None] = []

    def apply(*, threads: int | None, deterministic: bool) -> None:
        asked.append(threads)
        real(threads=1, deterministic=deterministic)  # of this process, once for all

    real = numerics.apply
    monkeypatch.setattr(numerics, "apply", apply)
    for _ in range(2):
        lease = queue.claim(job, {"host": "here", "pid": 1})
        steps: list[int] = []

        class Worker(Host):
            commit = staticmethod(lease.commit)

            def should_stop(self, steps: list[int] = steps) -> str | None:
                return "SIGTERM" if 3 in steps else None

            def progressed(self, progress: Progress, steps: list[int] = steps) -> None:
                steps.append(progress.global_step)

        found = lease.job.checkpoints
        past = Past(store=queue.store, prefix="jobs/one", token=lease.token, checkpoints=found)
        with suppress(PreemptedError):
            train(spec, past, Worker())
        lease.release("stopped")
        job = queue.job("one")
    (first, *_) = job.checkpoints
    assert asked == [None, read_manifest(queue.store, first["manifest"]).numerics["threads"]]


def test_it_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is frozen is never freed while the training lasts, and each look takes 0.3 s."""
    frozen: list[int] = []
    steps: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(steps[-1] if steps else 0))
    run(lambda progress: steps.append(progress.global_step))
    assert len([step for step in steps if step]) >= 3
    assert len(frozen) == 1


@pytest.mark.slow
def test_the_collector_of_cycles_is_as_it_was_however_a_training_ends() -> None:
    frozen: list[int] = []

    def look(progress: Progress) -> None:
        if progress.global_step:
            frozen.append(gc.get_freeze_count())

    run(look)
    whole = len(frozen)
    assert gc.get_freeze_count() < 1000
    with pytest.raises(PreemptedError):
        run(look, lambda: "SIGTERM" if len(frozen) > whole else None)
    assert gc.get_freeze_count() < 1000
    assert min(frozen) > 100_000, "what stays is looked at once"
    assert gc.isenabled()
