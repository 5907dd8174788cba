"""Every change a job may go through, and no other."""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from runner.commit import Commit
from runner.errors import ConflictError, DamagedRecordError, LeaseLostError, SpecError, StoreError
from runner.queue import job as jobs
from runner.queue.job import Job, Stage, State

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ME = {"host": "here", "pid": 1}
TERMS = {
    "priority": 5,
    "after": ["dogs"],
    "requirements": {"gpu_memory_gb": 16.0, "labels": ["lab"]},
    "budget": {"gpu_hours": 3.0, "hours": None},
    "limits": {"deaths": 2},
}
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
    "unhold": jobs.unheld,
    "retry": jobs.retried,
    "prioritize": partial(jobs.prioritized, priority=3),
    "evaluate": lambda job: jobs.to_evaluate(replace(job, final=REFERENCE)),
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
    (State.RUNNING, "hold"): State.RUNNING,
    (State.QUEUED, "prioritize"): State.QUEUED,
    (State.HELD, "prioritize"): State.HELD,
    (State.RUNNING, "prioritize"): State.RUNNING,
    (State.SUCCEEDED, "evaluate"): State.QUEUED,
    (State.FAILED, "evaluate"): State.QUEUED,
    (State.CANCELLED, "evaluate"): State.QUEUED,
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
        with pytest.raises(ConflictError, match=r"cats .*(it is |it has |is held already)"):
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


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD, State.RUNNING, State.FAILED])
def test_only_the_evaluation_is_cancelled_where_an_earlier_one_has_results(state: State) -> None:
    again = a_job(state, Stage.EVALUATE, final=REFERENCE, evaluation={"top_1": 0.5})
    job = jobs.cancelled(again)
    assert (job.state, job.evaluation, job.owner) == (State.SUCCEEDED, {"top_1": 0.5}, None)
    assert "its new evaluation is cancelled" in jobs.describe(job)
    assert jobs.cancelled(replace(again, evaluation=None)).state is State.CANCELLED


def test_training_without_an_evaluation_succeeds() -> None:
    job = a_job(State.RUNNING)
    done = jobs.finished(job, final=REFERENCE, evaluation=None, evaluate=False, notes=())
    assert (done.state, done.stage) == (State.SUCCEEDED, Stage.TRAIN)


def test_a_claim_counts_a_lost_worker_as_a_death_and_not_as_a_preemption() -> None:
    """Whoever ended it said nothing; how often a job is interrupted counts both."""
    assert claim(a_job(State.QUEUED)).died == 0
    lost = claim(a_job(State.RUNNING))
    assert (lost.token, lost.attempts, lost.died, lost.preempted) == (2, 1, 1, 0)
    released = jobs.released(lost, reason="SIGTERM")
    assert (released.died, released.preempted, released.preemptions) == (1, 1, 2)


def test_tries_are_counted_for_each_stage() -> None:
    """An undisturbed job is tried once in each, however often it is evaluated."""
    end = partial(jobs.finished, final=REFERENCE, evaluation=None, evaluate=True, notes=())
    evaluating = claim(end(claim(release(claim(a_job(State.QUEUED))))))
    assert (evaluating.stage, evaluating.attempts, evaluating.tries) == (Stage.EVALUATE, 3, 1)
    done = end(evaluating)
    assert (done.state, done.tries) == (State.SUCCEEDED, 1)
    again = claim(jobs.to_evaluate(done))
    assert (again.attempts, again.tries) == (4, 1)


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
        job = jobs.committed(job, Commit(step=1, epoch=0, notes=[f"{number}" + "x" * 1000]))
    assert len(job.notes) == 20
    assert job.notes[-1].startswith("49")
    assert len(job.notes[-1]) == 500
    with pytest.raises(ConflictError, match="65 checkpoints"):
        jobs.committed(job, Commit(step=1, epoch=0, checkpoints=[{}] * 65))


@pytest.mark.parametrize("name", ["", "Cats", "a/b", "../x", ".a", "-a", "a" * 64, "a b", "ä"])
def test_ids_are_plain_names(name: str) -> None:
    with pytest.raises(SpecError, match="not a job name"):
        jobs.submitted(name, {}, NOW)


def test_a_record_survives_json() -> None:
    job = a_job(State.RUNNING, checkpoints=(REFERENCE,), best=REFERENCE, notes=("a",))
    for one in (job, jobs.submitted("cats", TERMS, NOW), fail(job, retries=1)):
        text = json.dumps(jobs.to_json(one))
        assert jobs.from_json(json.loads(text), "cats") == one
        later = {**json.loads(text), "of_a_later_version": 3}
        assert jobs.from_json(later, "cats") == one


def test_a_record_of_the_first_version_is_read_and_written_as_it_was() -> None:
    """What came later says nothing where a spec does not ask for it."""
    record = jobs.to_json(a_job(State.RUNNING))
    assert not {"priority", "after", "deaths", "wish", "failure"} & record.keys()
    old = jobs.from_json(record, "cats")
    assert (old.priority, old.after, old.most_deaths, old.wish) == (0, (), 3, "")


def test_what_the_spec_asks_of_the_queue_is_in_every_record() -> None:
    """So that a worker need not read 10,000 specs to choose."""
    job = claim(jobs.submitted("cats", TERMS, NOW))
    assert (job.priority, job.after, job.most_deaths) == (5, ("dogs",), 2)
    assert job.requirements == {"gpu_memory_gb": 16.0, "labels": ["lab"]}
    assert job.budget == {"gpu_hours": 3.0}


def test_a_training_on_several_devices_requires_as_many() -> None:
    """In every record; "all" requires none by itself, and says so to versions that know none."""
    for devices, least, expected in ((4, None, 4), (2, 3, 3), ("all", 2, 2), ("all", None, None)):
        spec = {"training": {"devices": devices}, "requirements": {"devices": least}}
        job = jobs.from_json(jobs.to_json(jobs.submitted("cats", spec, NOW)), "cats")
        assert (job.requirements or {}).get("devices") == expected
    assert jobs.submitted("cats", {}, NOW).requirements is None


def test_attempts_that_die_at_one_step_hold_the_job() -> None:
    """A poison job takes three workers with it, no more; a step of progress starts anew."""
    job = claim(a_job(State.QUEUED))
    commit = Commit(step=1, epoch=0)
    for _ in range(2):
        job = claim(job)
    job = claim(jobs.committed(job, commit))
    for _ in range(2):
        assert job.state is State.RUNNING
        job = claim(jobs.committed(job, commit))  # no progress
    assert (job.state, job.kind, job.owner) == (State.HELD, "quarantine", None)
    assert "its last 3 attempts died after step 1" in job.reason
    assert job.preemptions == 5
    again = jobs.unheld(job)
    assert (again.state, again.deaths) == (State.QUEUED, 0)
    assert claim(claim(again)).state is State.RUNNING


def test_a_worker_that_was_killed_for_memory_is_a_failure_of_that_kind() -> None:
    """Shown as one, though it spends no retry: the machine may have been too small."""
    job = a_job(State.RUNNING)
    claimed = jobs.claimed(job, seen=job, owner=ME, lease_seconds=30.0, why="killed for memory")
    assert claimed.failure is not None
    assert (claimed.failure["kind"], claimed.failures) == ("out_of_memory", 0)
    poison = replace(job, deaths=2)
    held = jobs.claimed(poison, seen=poison, owner=ME, lease_seconds=30.0, why="killed for memory")
    assert "killed for memory" in held.reason


def test_a_running_job_is_held_by_its_owner_or_for_a_dead_one() -> None:
    asked = jobs.put_on_hold(a_job(State.RUNNING))
    assert (asked.state, asked.owner, asked.wish) == (State.RUNNING, ME, "hold")
    assert release(asked).state is State.HELD
    assert release(asked).preemptions == 0
    assert fail(asked, retries=1).state is State.HELD
    assert claim(asked).state is State.HELD
    assert (claim(asked).deaths, claim(asked).reason) == (0, "held by its user")
    ended = finish(asked)
    assert (ended.state, ended.stage, ended.wish) == (State.HELD, Stage.EVALUATE, "")
    assert ended.reason == "held by its user"
    assert jobs.unheld(ended).state is State.QUEUED
    assert finish(replace(asked, stage=Stage.EVALUATE)).state is State.SUCCEEDED
    assert jobs.unheld(asked).wish == ""
    with pytest.raises(ConflictError, match="asked to already"):
        jobs.put_on_hold(asked)


def test_retries_wait_twice_as_long_each_time() -> None:
    job = a_job(State.RUNNING)
    waits = []
    for _ in range(12):
        job = jobs.failed(job, reason="x", retries=50, backoff_seconds=10.0)
        waits.append(job.wait_seconds)
        job = claim(job)
        assert job.wait_seconds == 0
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


def test_a_failure_says_what_where_and_where_to_read_more() -> None:
    job = a_job(State.RUNNING, step=7)
    job = jobs.failed(
        job, reason="no memory", retries=1, kind=jobs.Failure.OUT_OF_MEMORY, trace="jobs/cats/t"
    )
    assert job.failure == {
        "kind": "out_of_memory",
        "stage": "train",
        "step": 7,
        "token": 1,
        "reason": "no memory",
        "trace": "jobs/cats/t",
    }


def test_a_budget_counts_the_time_of_owners_and_is_given_again() -> None:
    """Hours of work, and of each GPU of the machine; waiting costs nothing."""
    queued = a_job(State.QUEUED, budget={"gpu_hours": 4.0, "hours": 3.0})
    owner = {**ME, "gpus": 2}
    running = jobs.claimed(queued, seen=queued, owner=owner, lease_seconds=30.0)
    running = jobs.dated(running, queued, NOW)
    assert jobs.over_budget(running, 7190.0) == ""
    assert "budget of 4 GPU hours is spent" in jobs.over_budget(running, 7200.0)
    commit = jobs.committed(running, Commit(step=1, epoch=0))
    later = jobs.dated(commit, running, NOW + timedelta(hours=2))
    held = jobs.dated(jobs.held(later, reason="spent"), later, NOW + timedelta(hours=3))
    assert (held.spent_seconds, held.spent_gpu_seconds) == (10800.0, 21600.0)
    free = jobs.dated(jobs.unheld(held), held, NOW + timedelta(hours=9))
    assert (free.spent_seconds, free.spent_gpu_seconds, free.worked_seconds) == (0, 0, 10800.0)


def test_a_users_record_about_a_running_job_measures_no_time() -> None:
    """The user's clock may be an hour off; only the owner's own times are subtracted."""
    running = a_job(State.RUNNING, updated_at=NOW)
    asked = jobs.dated(jobs.put_on_hold(running), running, NOW + timedelta(hours=5))
    first = jobs.dated(jobs.prioritized(asked, 3), asked, NOW - timedelta(hours=5))
    done = jobs.dated(jobs.released(first, reason=""), first, NOW + timedelta(seconds=60))
    assert done.worked_seconds == 60.0


def test_an_evaluation_asked_for_again_keeps_its_results_until_there_are_others() -> None:
    done = a_job(State.SUCCEEDED, Stage.EVALUATE, final=REFERENCE, evaluation={"a": 1})
    again = jobs.to_evaluate(done)
    assert (again.state, again.stage, again.evaluation) == (State.QUEUED, Stage.EVALUATE, {"a": 1})
    with pytest.raises(ConflictError, match="has not ended"):
        jobs.to_evaluate(a_job(State.FAILED))


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
        ("priority", "high"),
        ("priority", 1 << 40),
        ("after", "dogs"),
        ("after", [3]),
        ("requirements", {"labels": "lab"}),
        ("requirements", {"gpu_memory_gb": "16"}),
        ("budget", 3),
        ("deaths", -1),
        ("wait_seconds", float("inf")),
        ("wish", 3),
        ("failure", "x"),
    ],
)
def test_a_hostile_record_is_a_store_error(field: str, value: object) -> None:
    record = {**jobs.to_json(a_job(State.RUNNING)), field: value}
    with pytest.raises(StoreError, match="can't be used"):
        jobs.from_json(record, "cats")


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("checkpoints", [{"step": 1}, {"step": "2"}], "$.checkpoints[1].step"),
        ("best", {"manifest": 3}, "$.best.manifest"),
        ("final", {"digest": None}, "$.final.digest"),
        ("requirements", {"labels": ["lab", 1]}, "$.requirements.labels[1]"),
        ("token", -1, "$.token"),
    ],
)
def test_damage_is_named_by_its_path(field: str, value: object, path: str) -> None:
    record = {**jobs.to_json(a_job(State.RUNNING)), field: value}
    with pytest.raises(DamagedRecordError, match=re.escape(path)):
        jobs.from_json(record, "cats")


@pytest.mark.parametrize("field", [field.name for field in fields(Job)])
def test_forged_types_are_damage_and_no_error_of_python(field: str) -> None:
    record = jobs.to_json(jobs.submitted("cats", TERMS, NOW))
    odd: list[Any] = [None, True, -1, 1.5, 10**400, "x", [], {}, [{}], {"a": {}}, math.nan]
    for value in odd:
        with suppress(DamagedRecordError):
            jobs.from_json({**record, field: value}, "cats")


def test_a_digest_does_not_depend_on_the_order_of_fields() -> None:
    assert jobs.spec_digest({"a": 1, "b": {"c": 2, "d": 3}}) == jobs.spec_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert jobs.spec_digest({"a": 1}) != jobs.spec_digest({"a": 1.5})


def test_what_stood_below_each_other_is_one_line_with_single_blanks() -> None:
    assert jobs.line("a.npz cannot be used:\n  x is empty.\n  y too. ") == (
        "a.npz cannot be used: x is empty. y too."
    )
