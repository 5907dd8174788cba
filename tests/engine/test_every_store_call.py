"""A worker may die between any two store calls of a whole job: the job ends as if it had not.

The bucket is copied before every store call of an undisturbed run. Each copy is what a worker
leaves that dies at that call; another machine takes the job up there when the lease has expired,
and the final digest, the History and the evaluation are compared. `chaos` tries every call, the
test command every fifth, beginning with another one each time.
"""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from runner import spec as specs
from runner.cli.live import PlainReporter
from runner.cli.submit import store_one
from runner.engine.preemption import StopRequest
from runner.engine.worker import Worker
from runner.errors import NotFoundError
from runner.queue.queue import Queue
from runner.queue.view import View, describe
from tests.harness import assert_same
from tests.store.memory import MemoryStore

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


@dataclass(frozen=True)
class Death:
    """What is in the bucket when a worker dies before a call."""

    call: str
    store: MemoryStore
    at: float


class Watched:
    """One machine's way to the store; what it would leave is copied before each of its calls."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self.deaths: list[Death] = []
        self.url = store.url
        self.single_writer = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                text = f"{name} {args[0] if args else ''}"
                self.deaths.append(Death(text, self._store.copy(), self._clock()))
            return method(*args, **kwargs)

        return call


class World:
    """A bucket, and a clock that all machines and the bucket share."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)

    def live(
        self, machine: str, spec: Mapping[str, Any] = SPEC, *, remove: str = ""
    ) -> list[Death]:
        """Submit (which changes nothing the second time) and work until nothing is left.

        `remove`: a job that goes once this one is stored.
        """
        watched = Watched(self.store, lambda: self.now)
        queue = Queue(watched, lease_seconds=LEASE_SECONDS, clock=lambda: self.now)
        parsed = specs.parse(spec, source="test")
        store_one(queue, parsed, queue.find(parsed.name))
        if remove:
            with suppress(NotFoundError):  # it has gone before
                queue.remove(remove)
        Worker(
            queue,
            watched,
            stop=StopRequest(),
            reporter=PlainReporter(),
            owner={"host": machine, "pid": 1},
            sleep=self._sleep,
        ).work()
        return watched.deaths

    def after(self, death: Death) -> None:
        """Let the lease of a worker that died there expire."""
        self.store = death.store
        self.now = death.at + LEASE_SECONDS + 1

    def _sleep(self, seconds: float) -> None:
        self.now += 30 * seconds  # nobody waits for real

    def outcome(self, name: str = SPEC["name"]) -> dict[str, Any]:
        queue = Queue(self.store, lease_seconds=LEASE_SECONDS)
        return describe(self.store, View(job=queue.job(name)))


@pytest.fixture(scope="module")
def eagerly() -> Iterator[None]:
    """Without tracing graphs a hundred times over: this test is about the store."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:  # which an attempt would undo
        patch.setattr("runner.training.backends.tensorflow.begin_anew", lambda: None)
        yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.parametrize("of", [5, pytest.param(1, marks=pytest.mark.chaos)])
def test_death_between_any_two_store_calls(eagerly: None, of: int) -> None:
    """Any call of the job is the last one of some worker; the outcome is always the same."""
    world = World()
    deaths = world.live("first")
    reference = world.outcome()
    assert reference["state"] == "succeeded"
    assert len(deaths) > 60
    for death in deaths[random.randrange(of) :: of]:
        world.after(death)
        world.live("second")
        outcome = world.outcome()
        assert outcome["state"] == "succeeded", f"after a death at {death.call}"
        assert_same(outcome, reference)
        evaluations = world.store.list("jobs/enumerated/evaluation/")
        assert outcome["evaluation_run"]["json"] in evaluations


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_death_at_any_call_of_a_job_that_goes_on_from_one_that_is_removed(eagerly: None) -> None:
    """Submitted, its parent removed, trained: whoever dies where, it is what one go would be."""
    world = World()
    world.live("first", {**SPEC, "training": {**SPEC["training"], "epochs": 3}})
    whole = world.outcome()
    world = World()
    world.live("first")
    child = {**SPEC, "name": "child", "training": {**SPEC["training"], "epochs": 3}}
    child["from"] = {"job": SPEC["name"]}
    deaths = world.live("first", child, remove=SPEC["name"])
    assert_same(world.outcome("child"), whole)
    assert len(deaths) > 80
    for death in deaths:
        world.after(death)
        world.live("second", child, remove=SPEC["name"])
        outcome = world.outcome("child")
        assert_same(outcome, whole)
        assert world.store.folders("jobs/") == ["child"], f"after a death at {death.call}"
