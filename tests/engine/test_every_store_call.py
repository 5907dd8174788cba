"""A worker may die between any two store calls of a whole job: the job ends as if it had not.

Not sampled, enumerated: the same job is run once for every store call it makes, the worker
dies at that call, another machine takes the job up when the lease has lapsed, and the final
digest, the History and the evaluation are compared with those of an undisturbed run.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runner import spec as specs
from runner.cli.render import PlainReporter
from runner.cli.status import View, describe
from runner.engine.preemption import StopRequest
from runner.engine.worker import Worker
from runner.queue.job import State
from runner.queue.queue import Queue
from runner.store.memory import Killed, MemoryStore
from tests.harness import assert_same

LEASE_SECONDS = 60.0
SPEC: dict[str, Any] = {
    "name": "enumerated",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp", "arguments": {"dropout": 0.2}},
    "training": {
        "epochs": 2,
        "batch_size": 600,
        "threads": 1,
        "early_stopping": {"monitor": "val_top_1", "patience": 1},
    },
    "checkpoint": {"every": "2 steps", "keep": 1, "best": {"monitor": "val_loss"}},
    "evaluation": {"batch_size": 360},
}


class Mortal:
    """One machine's way to the store; dead from its n-th call on."""

    def __init__(self, store: MemoryStore, dies_at: int | None = None) -> None:
        self._store = store
        self._dies_at = dies_at
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self.url = store.url
        self.single_writer = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.calls.append(f"{name} {args[0] if args else ''}")
                if self._dies_at is not None and len(self.calls) >= self._dies_at:
                    raise Killed
            return method(*args, **kwargs)

        return call


class World:
    """A bucket, and a clock that all machines and the bucket share."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)

    def live(self, machine: str, dies_at: int | None = None) -> Mortal:
        """Submit (which changes nothing the second time) and work until nothing is left."""
        mortal = Mortal(self.store, dies_at)
        queue = Queue(mortal, lease_seconds=LEASE_SECONDS, clock=lambda: self.now)
        try:
            queue.submit(SPEC["name"], specs.parse(SPEC, source="test").effective())
            Worker(
                queue,
                mortal,
                stop=StopRequest(),
                reporter=PlainReporter([]),
                owner={"host": machine, "pid": 1},
                sleep=self._sleep,
            ).work()
        except Killed:
            pass
        return mortal

    def _sleep(self, seconds: float) -> None:
        self.now += 30 * seconds  # nobody waits for real

    def outcome(self) -> dict[str, Any]:
        queue = Queue(self.store, lease_seconds=LEASE_SECONDS)
        return describe(self.store, View(job=queue.job(SPEC["name"])))


@pytest.fixture(scope="module")
def eagerly() -> Iterator[None]:
    """Without tracing graphs a hundred times over: this test is about the store."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def undisturbed(eagerly: None) -> tuple[dict[str, Any], int]:
    world = World()
    calls = world.live("first").calls
    outcome = world.outcome()
    assert outcome["state"] == State.SUCCEEDED
    return outcome, len(calls)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_death_between_any_two_store_calls(undisturbed: tuple[dict[str, Any], int]) -> None:
    """Every call of the job is the last one of some worker; the outcome is always the same."""
    reference, calls = undisturbed
    assert calls > 30
    for number in range(1, calls + 1):
        world = World()
        dead = world.live("first", dies_at=number)
        world.now += LEASE_SECONDS + 1
        world.live("second")
        outcome = world.outcome()
        assert outcome["state"] == "succeeded", f"after a death at {dead.calls[number - 1]}"
        assert_same(outcome, reference)
        evaluations = world.store.list("jobs/enumerated/evaluation/")
        assert outcome["evaluation"]["json"] in evaluations
