"""A job reads the same wherever people look at it, and what makes no sense reads as nothing."""

from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from runner.errors import NotFoundError, StoreError
from runner.queue.job import HOLD, Stage, State
from runner.queue.protocol import Availability, Heartbeat
from runner.queue.queue import Queue
from runner.queue.texts import duration
from runner.queue.view import Onlooker, View, read_named
from tests.store.memory import MemoryStore

ALIVE = Availability(claimable=False, why="it runs", seen_seconds=4.0)
GONE = Availability(claimable=True, why="it is gone", seen_seconds=130.0)
JOB = Queue(MemoryStore()).submit("cats", {"name": "cats"})
RUNS: dict[str, Any] = {"state": State.RUNNING, "owner": {"host": "lab", "pid": 7, "node": "n7"}}


def beat(**details: Any) -> Heartbeat:
    return Heartbeat(
        token=1, sequence=1, step=30, epoch=2, metrics={"loss": 0.5, "acc": None},
        unsaved_seconds=12.0, sent_at=None, details=details,
    )  # fmt: skip


def view(
    availability: Availability | None = None,
    beat: Heartbeat | None = None,
    others: dict[str, State] | None = None,
    **job: Any,
) -> View:
    return View(job=replace(JOB, **job), availability=availability, beat=beat, others=others or {})


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (view(), "queued"),
        (view(after=("a", "b")), "queued, after a, b"),
        (view(after=("a", "b"), others={"a": State.SUCCEEDED}), "queued, after b"),
        (view(after=("a",), others={"a": State.SUCCEEDED}), "queued"),
        (
            view(after=("a", "b"), others={"a": State.QUEUED, "b": State.CANCELLED}),
            "queued, after b (cancelled)",
        ),
        (view(failures=2), "queued, retry 2"),
        (view(checkpoints=({"step": 1},)), "queued, can be resumed"),
        (view(stage=Stage.EVALUATE, checkpoints=({"step": 1},)), "queued (evaluate)"),
        (view(ALIVE, **RUNS), "running"),
        (view(ALIVE, beat(stage="start"), **RUNS), "starting"),
        (view(ALIVE, beat(stage="start"), stage=Stage.EVALUATE, **RUNS), "starting (evaluate)"),
        (view(ALIVE, beat(stage="train"), **RUNS), "running"),
        (view(ALIVE, wish=HOLD, **RUNS), "running, to be held"),
        (view(ALIVE, beat(stalled_seconds=130), **RUNS), "stalled 2m10s"),
        (view(GONE, beat(stalled_seconds=130), **RUNS), "lost 2m10s, can be resumed"),
        (view(GONE, wish=HOLD, **RUNS), "lost 2m10s, to be held"),
        (view(state=State.HELD), "held"),
        (view(state=State.HELD, kind="quarantine", deaths=3, reason="x"), "held (quarantined)"),
        (
            view(state=State.HELD, reason="its budget is spent; do this"),
            "held: its budget is spent",
        ),
        (view(state=State.FAILED, failure={"kind": "out_of_memory"}), "failed (out of memory)"),
        (
            view(state=State.FAILED, failure={"kind": "training", "stage": "evaluate"}),
            "failed (evaluation)",
        ),
        (
            view(state=State.FAILED, failure={"kind": "out_of_memory", "stage": "evaluate"}),
            "failed (out of memory, evaluation)",
        ),
        (view(state=State.SUCCEEDED), "succeeded"),
    ],
)
def test_every_state_has_its_words(seen: View, text: str) -> None:
    assert seen.text == text


def test_what_a_dead_worker_had_beyond_its_commits_does_not_count() -> None:
    alive, dead = (view(one, beat(eta_seconds=60.0), **RUNS) for one in (ALIVE, GONE))
    assert (alive.ahead.step, alive.unsaved_seconds, alive.eta_seconds) == (30, 12.0, 56.0)
    assert (dead.ahead.step, dead.unsaved_seconds, dead.eta_seconds) == (0, None, None)
    assert (alive.worker, alive.node, alive.metrics) == ("lab:7", "n7", ["loss 0.5000"])


def test_only_what_would_be_repeated_is_unsaved() -> None:
    """While it is being built, and in an evaluation, there is nothing to save."""
    for told, stage in (("start", Stage.TRAIN), ("evaluate", Stage.EVALUATE)):
        assert view(ALIVE, beat(stage=told), stage=stage, **RUNS).unsaved_seconds is None


def test_an_onlooker_knows_how_the_jobs_ended_that_others_wait_for() -> None:
    queue = Queue(MemoryStore())
    queue.submit("boom", {"name": "boom"})
    queue.submit("later", {"name": "later", "after": ["boom", "nowhere"]})
    queue.cancel("boom")
    for names in ((), ("later",)):
        assert Onlooker(queue).look(names)[-1].text == "queued, after boom (cancelled)"
    queue.store.put("jobs/boom/log/000000000001.json", b"garbage")
    queue.store.put("jobs/boom/log/000000000000.json", b"garbage")
    queue.store.delete("jobs/boom/head.json")
    onlooker = Onlooker(queue)
    assert [one.text for one in onlooker.look(["later"])] == ["queued, after boom, nowhere"]
    assert onlooker.problems == [], "it was not asked for"


def test_an_onlooker_names_what_it_cannot_read_and_forgets_it_when_it_can() -> None:
    store = MemoryStore()
    queue = Queue(store)
    kept = {name: queue.submit(name, {"name": name}) for name in ("cats", "dogs")}
    onlooker, first = Onlooker(queue), "jobs/dogs/log/000000000000.json"
    whole = store.read(first) or b""
    for damaged in (True, False):
        store.put(first, b"garbage" if damaged else whole)
        assert _ids(onlooker) == (["cats"] if damaged else sorted(kept))
        assert [text[:21] for text in onlooker.problems] == ["dogs: cannot be read:"] * damaged
    with pytest.raises(NotFoundError):
        onlooker.look(["nobody"])


def _ids(onlooker: Onlooker) -> list[str]:
    return sorted(one.job.id for one in onlooker.look())


def test_an_object_is_what_its_name_says() -> None:
    store = MemoryStore()
    key = f"a-{blake3(b'x').hexdigest()[:32]}.json"
    with pytest.raises(StoreError, match="is missing"):
        read_named(store, key, 10)
    store.put(key, b"x")
    assert read_named(store, key, 10) == b"x"
    store.put(key, b"y")
    with pytest.raises(StoreError, match="is damaged"):
        read_named(store, key, 10)


def test_durations_are_as_long_as_a_person_wants_to_read() -> None:
    found = [duration(seconds) for seconds in (None, 42.4, 185, 1200, 7500, 273_600)]
    assert found == ["", "42s", "3m05s", "20m", "2h05m", "3d04h"]
