"""Every change a job may go through, and no other."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from runner.errors import ConflictError, LeaseLostError, SpecError, StoreError
from runner.queue import job as jobs
from runner.queue.job import Job, Stage, State

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ME = {"host": "here", "pid": 1}
REFERENCE = {"step": 5, "manifest": "jobs/cats/checkpoints/5.json"}


def a_job(state: State, stage: Stage = Stage.TRAIN, **fields: Any) -> Job:
    job = replace(jobs.submitted("cats", {"seed": 1}, NOW), state=state, stage=stage, nonce="n1")
    if state is State.RUNNING:
        job = replace(job, owner=ME, token=1)
    return replace(job, **fields)


def claim(job: Job) -> Job:
    return jobs.claimed(job, seen=job, owner=ME, lease_seconds=30.0)


def finish(job: Job) -> Job:
    jobs.held_by(job, 1, ME)
    return jobs.finished(job, final=REFERENCE, evaluation=None, evaluate=True, notes=())


def release(job: Job) -> Job:
    jobs.held_by(job, 1, ME)
    return jobs.released(job, reason="notice")


def fail(job: Job, retries: int) -> Job:
    jobs.held_by(job, 1, ME)
    return jobs.failed(job, reason="its fault", retries=retries)


CHANGES: dict[str, Callable[[Job], Job]] = {
    "claim": claim,
    "finish": finish,
    "release": release,
    "fail": partial(fail, retries=0),
    "fail with a retry": partial(fail, retries=1),
    "cancel": jobs.cancelled,
    "hold": jobs.put_on_hold,
    "unhold": jobs.let_go,
    "retry": jobs.retried,
}
ALLOWED = {
    (State.QUEUED, "claim"): State.RUNNING,
    (State.QUEUED, "cancel"): State.CANCELLED,
    (State.QUEUED, "hold"): State.HELD,
    (State.HELD, "unhold"): State.QUEUED,
    (State.HELD, "cancel"): State.CANCELLED,
    (State.RUNNING, "claim"): State.RUNNING,
    (State.RUNNING, "finish"): State.QUEUED,
    (State.RUNNING, "release"): State.QUEUED,
    (State.RUNNING, "fail"): State.FAILED,
    (State.RUNNING, "fail with a retry"): State.QUEUED,
    (State.RUNNING, "cancel"): State.CANCELLED,
    (State.FAILED, "retry"): State.QUEUED,
    (State.FAILED, "cancel"): State.CANCELLED,
    (State.CANCELLED, "retry"): State.QUEUED,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", State)
def test_every_transition(state: State, change: str) -> None:
    job = a_job(state)
    if (state, change) in ALLOWED:
        assert CHANGES[change](job).state is ALLOWED[state, change]
    else:
        with pytest.raises(ConflictError, match=r"cats .*it is "):
            CHANGES[change](job)


def test_training_that_ends_queues_its_evaluation_in_the_same_record() -> None:
    job = finish(a_job(State.RUNNING, failures=2))
    assert (job.state, job.stage, job.owner, job.failures) == (
        State.QUEUED,
        Stage.EVALUATE,
        None,
        0,
    )


def test_a_finished_evaluation_ends_the_job() -> None:
    job = a_job(State.RUNNING, Stage.EVALUATE, final=REFERENCE)
    done = jobs.finished(job, final=None, evaluation={"a": 1}, evaluate=True, notes=("x",))
    assert (done.state, done.final, done.evaluation) == (State.SUCCEEDED, REFERENCE, {"a": 1})


def test_training_without_an_evaluation_succeeds() -> None:
    job = a_job(State.RUNNING)
    done = jobs.finished(job, final=REFERENCE, evaluation=None, evaluate=False, notes=())
    assert (done.state, done.stage) == (State.SUCCEEDED, Stage.TRAIN)


def test_a_claim_counts_a_lost_worker_as_a_preemption() -> None:
    assert claim(a_job(State.QUEUED)).preemptions == 0
    lost = claim(a_job(State.RUNNING))
    assert (lost.token, lost.attempts, lost.preemptions) == (2, 1, 1)


def test_a_claim_holds_only_if_nothing_happened_since_it_was_judged() -> None:
    seen = a_job(State.RUNNING)
    with pytest.raises(ConflictError, match="not as it was"):
        jobs.claimed(replace(seen, nonce="n2"), seen=seen, owner=ME, lease_seconds=30.0)


@pytest.mark.parametrize(
    "fields",
    [{"token": 2}, {"owner": {"host": "here", "pid": 2}}, {"owner": None}]
    + [{"state": state} for state in State if state is not State.RUNNING],
)
def test_only_the_owner_of_the_token_holds_the_job(fields: dict[str, Any]) -> None:
    job = a_job(State.RUNNING)
    jobs.held_by(job, 1, ME)
    with pytest.raises(LeaseLostError, match="writes nothing more"):
        jobs.held_by(replace(job, **fields), 1, ME)


def test_the_time_that_owners_worked_is_counted() -> None:
    """Up to their last record: waiting in the queue and a dead owner's silence are no work."""
    queued = a_job(State.QUEUED)
    running = jobs.dated(claim(queued), queued, NOW + timedelta(hours=1))
    later = jobs.dated(running, running, NOW + timedelta(hours=1, seconds=30))
    taken = jobs.dated(claim(later), later, NOW + timedelta(hours=2))
    backwards = jobs.dated(taken, taken, NOW)
    worked = [job.worked_seconds for job in (running, later, taken, backwards)]
    assert worked == [0.0, 30.0, 30.0, 30.0]


def test_notes_and_checkpoints_are_bounded() -> None:
    job = a_job(State.RUNNING)
    for number in range(50):
        job = jobs.committed(
            job, step=1, epoch=0, checkpoints=[], best=None, notes=[f"{number}" + "x" * 1000]
        )
    assert len(job.notes) == 20
    assert job.notes[-1].startswith("49")
    assert len(job.notes[-1]) == 500
    with pytest.raises(ConflictError, match="65 checkpoints"):
        jobs.committed(job, step=1, epoch=0, checkpoints=[{}] * 65, best=None, notes=())


@pytest.mark.parametrize("name", ["", "Cats", "a/b", "../x", ".a", "-a", "a" * 64, "a b", "ä"])
def test_ids_are_plain_names(name: str) -> None:
    with pytest.raises(SpecError, match="not a job name"):
        jobs.submitted(name, {}, NOW)


def test_a_record_survives_json() -> None:
    job = a_job(State.RUNNING, checkpoints=(REFERENCE,), best=REFERENCE, notes=("a",))
    text = json.dumps(jobs.to_json(job))
    assert jobs.from_json(json.loads(text), "cats") == job
    later = {**json.loads(text), "priority": 3}
    assert jobs.from_json(later, "cats") == job


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "dogs"),
        ("id", None),
        ("state", "dancing"),
        ("state", ["running"]),
        ("stage", 3),
        ("token", -1),
        ("token", True),
        ("token", 1.5),
        ("token", "1"),
        ("token", 10**30),
        ("owner", "me"),
        ("checkpoints", {}),
        ("checkpoints", [1]),
        ("best", []),
        ("notes", "text"),
        ("notes", [1]),
        ("reason", 3),
        ("submitted_at", "yesterday"),
        ("submitted_at", 12),
        ("lease_seconds", -1),
        ("lease_seconds", float("nan")),
        ("lease_seconds", "60"),
        ("spec", 3),
        ("kind", None),
    ],
)
def test_a_hostile_record_is_a_store_error(field: str, value: object) -> None:
    record = {**jobs.to_json(a_job(State.RUNNING)), field: value}
    with pytest.raises(StoreError, match="can't be used"):
        jobs.from_json(record, "cats")


def test_a_digest_does_not_depend_on_the_order_of_fields() -> None:
    assert jobs.spec_digest({"a": 1, "b": {"c": 2, "d": 3}}) == jobs.spec_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert jobs.spec_digest({"a": 1}) != jobs.spec_digest({"a": 1.5})
