"""While the bucket is away the training goes on, then pauses, and loses nothing."""

import logging
import time
from typing import Any

import pytest

from runner import spec as specs
from runner.checkpoint.manifest import Reference
from runner.errors import PreemptedError, StoreError
from runner.queue.queue import Queue
from runner.training.host import Host
from runner.training.loop import Loop
from runner.training.progress import OnProgress, Progress
from runner.training.trainer import Past, train
from tests.store.memory import Fault, MemoryStore

SPEC: dict[str, Any] = {
    "name": "away",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp"},
    "training": {"epochs": 4, "batch_size": 128, "threads": 1},
    "checkpoint": {"every": "2 steps", "max_loss": "1s", "best": {"monitor": "val_loss"}},
}


class Bucket(MemoryStore):
    """Goes away when the training has reached a step, and is back some seconds later."""

    def __init__(self, away_at: int = 0, seconds: float = 0.0, key: str = "") -> None:
        super().__init__(hook=self.fail)
        self.step = 0
        self._away_at = away_at
        self._key = key  # or when this is first written
        self._seconds = seconds
        self._until: float | None = None

    @property
    def is_away(self) -> bool:
        if self._away_at and self.step >= self._away_at and self._until is None:
            self._until = time.monotonic() + self._seconds
        return self._until is not None and time.monotonic() < self._until

    def fail(self, number: int, operation: str, key: str) -> Fault | None:
        if self._key and self._key in key and self._until is None:
            self._until = time.monotonic() + self._seconds
        return Fault.NOT_DONE if self.is_away and operation == "put" else None

    def stepped(self) -> None:
        """Take as long as a step of a real network."""
        self.step += 1
        time.sleep(0.1)


def run(
    store: Bucket,
    stop_after: int = 10**9,
    every: str = "2 steps",
    on_progress: OnProgress = lambda _: None,
) -> Reference:
    queue = Queue(store)
    checkpoint = {**SPEC["checkpoint"], "every": every, "max_loss": "1h"}
    spec = specs.parse(
        SPEC if every == "2 steps" else {**SPEC, "checkpoint": checkpoint}, source="test"
    )
    job = queue.submit("away", spec.effective())
    lease = queue.claim(job, {"host": "here", "pid": 1})

    class Worker(Host):
        commit = staticmethod(lease.commit)

        def should_stop(self) -> str | None:
            store.stepped()
            return "SIGTERM" if store.step >= stop_after else None

        def progressed(self, progress: Progress) -> None:
            on_progress(progress)

    past = Past(
        store=store,
        prefix="jobs/away",
        token=lease.token,
        checkpoints=job.checkpoints,
        best=job.best,
    )
    final = train(spec, past, Worker()).final
    assert queue.job("away").checkpoints[0] == final.to_json()
    return final


@pytest.fixture(scope="module")
def undisturbed() -> Reference:
    return run(Bucket())


@pytest.mark.slow
def test_the_training_pauses_and_goes_on_when_the_bucket_is_back(
    undisturbed: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps are taken while it is away, but no more than max_loss allows."""
    store = Bucket(away_at=8, seconds=4.0)
    with caplog.at_level(logging.WARNING, "runner"):
        final = run(store)
    assert final.digest == undisturbed.digest
    assert "paused at step" in caplog.text
    assert "resumed at step" in caplog.text


@pytest.mark.slow
def test_the_end_waits_for_the_bucket(
    undisturbed: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes away with the last step: the final state is committed all the same."""
    store = Bucket(key=f"-s{undisturbed.step}-", seconds=3.0)
    with caplog.at_level(logging.WARNING, "runner"):
        final = run(store)
    assert final.digest == undisturbed.digest
    assert "the training has ended, its last state is unsaved" in caplog.text


def test_asked_to_stop_while_it_is_away(undisturbed: Reference) -> None:
    """It does not wait then: the error says that the last steps could not be saved."""
    store = Bucket(away_at=8, seconds=60.0)
    with pytest.raises((StoreError, PreemptedError)) as caught:
        run(store, stop_after=12)
    assert isinstance(caught.value, StoreError), "it says that it saved, and could not"


@pytest.mark.slow
def test_what_came_before_the_first_step_is_not_unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing and tracing take half a minute, and are no training that could be lost."""
    told: list[Progress] = []
    begin = Loop.on_train_batch_begin

    def traced(loop: Loop, batch: int, logs: Any = None) -> None:
        time.sleep(0.0 if told[-1].global_step else 2.0)
        begin(loop, batch, logs)

    monkeypatch.setattr(Loop, "on_train_batch_begin", traced)
    run(Bucket(), every="1h", on_progress=told.append)
    first = next(progress for progress in told if progress.global_step == 1)
    assert first.unsaved_seconds is not None
    assert first.unsaved_seconds < 0.5
    later = max(p.unsaved_seconds or 0.0 for p in told)
    assert later > 0.5, "and grows from there on"


@pytest.mark.slow
def test_the_first_step_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on there is something to save: a notice that comes right after it must know."""
    monkeypatch.setattr("runner.training.saving.PROGRESS_SECONDS", 3600.0)
    told: list[Progress] = []
    run(Bucket(), on_progress=told.append)
    assert 1 in [progress.global_step for progress in told]


@pytest.mark.slow
def test_nobody_sees_a_step_before_the_training_can_be_resumed() -> None:
    """A slow bucket: the state before the first step counts when that step is reported."""
    store = Bucket()
    known: list[tuple[int, int]] = []

    def slowly(number: int, operation: str, key: str) -> None:
        if "/checkpoints/" in key and operation == "put":
            time.sleep(1.0)

    def look(progress: Progress) -> None:
        known.append((progress.global_step, len(Queue(store).job("away").checkpoints)))

    store.hook = slowly
    run(store, every="1h", on_progress=look)
    assert min(checkpoints for step, checkpoints in known if step) == 1
