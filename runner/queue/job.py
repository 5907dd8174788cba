"""A job is one record that holds its whole state, and every change of it has a name.

                     submit            claim              finish (train)
            (none) ────────▶ queued ──────────▶ running ─────────────────▶ queued, evaluate
                             ▲ │ hold ▲ release │ │ │ ▲    finish (evaluate)
                       unhold│ ▼      └─────────┘ │ └─┘claim ─────────────▶ succeeded
                             held ◀─── hold ──────┤   after the lease expired
    any but succeeded ── cancel ──▶ cancelled     └─ fail ──▶ queued, or failed when the
    failed, cancelled ── retry ───▶ queued                    retries are used up
    ended, but trained ─ evaluate ▶ queued, evaluate ─ cancel ─▶ succeeded, if it has results

A running job is held by its owner: a user's `ask` is a record that the owner sees at its next
renewal; it saves, then holds. An owner that died can't: whoever would take the job over then
writes `quarantine` instead, which also holds a job whose attempts died too often at one step.

The functions below are pure: a job and arguments in, the next job out, or ConflictError with
the reason. `token` grows by one at every claim: it tells the owners of a job apart.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, SpecError
from runner.queue.record import (
    ENDED,
    HOLD,
    MOST_DEATHS,
    Failure,
    Job,
    Json,
    Stage,
    State,
    amounts,
    changed_spec,
    from_json,
    line,
    monitors,
    requirements,
    spec_digest,
    to_json,
)
from runner.store.log import DAMAGED, REMOVED

__all__ = [
    "ENDED", "HOLD", "MOST_DEATHS", "REMOVED", "Failure", "Job", "Json", "Stage", "State",
    "changed_spec", "from_json", "line", "spec_digest", "to_json",
]  # fmt: skip

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NOTES = 20  # the newest are kept: a record stays one small request
_CHECKPOINTS = 64
_REASON = 1000  # characters; a traceback belongs into an object of its own
#: kinds of records that a user wrote, and an owner that lost the job does not notice
BY_USERS = ("hold", "unhold", "priority", "retry", "evaluate")
_OTHERS = ("cancel", "quarantine")  # no records of the owner: their clock is not its
#: of a job that its user queues once more
_AGAIN: dict[str, Any] = {"state": State.QUEUED, "deaths": 0, "wait_seconds": 0.0}
#: the same, with its budget as it was at the beginning
_ANEW: dict[str, Any] = {**_AGAIN, "spent_seconds": 0.0, "spent_gpu_seconds": 0.0}
MOST_BACKOFF = 3600.0  #: seconds between two tries


def check_id(job_id: str) -> str:
    """Return the id, or raise SpecError."""
    if isinstance(job_id, str) and _ID.fullmatch(job_id):
        return job_id
    raise SpecError(
        f"{job_id!r} is not a job name. Names are 1 to 63 of a-z, 0-9, '.', '_' and '-', and "
        "start with a letter or digit."
    )


def is_id(name: str) -> bool:
    """Whether a folder's name can be a job's."""
    return _ID.fullmatch(name) is not None


# What may happen to a job. All take the job as it is and return it as it would be.


def submitted(job_id: str, spec: Json, now: datetime) -> Job:
    """Return record 0 of a job: submission is this one create."""
    return Job(
        id=check_id(job_id),
        number=0,
        kind="submit",
        state=State.QUEUED,
        stage=Stage.TRAIN,
        submitted_at=now,
        updated_at=now,
        spec_digest=spec_digest(spec),
        spec=spec,
        priority=spec.get("priority") or 0,
        after=tuple(spec.get("after") or ()),
        requirements=requirements(spec),
        budget=amounts(spec.get("budget") or None),
        most_deaths=(spec.get("limits") or {}).get("deaths", MOST_DEATHS),
        monitors=monitors(spec),
        trackers=tuple(spec.get("trackers") or ()),
    )


def claimed(job: Job, *, seen: Job, owner: Json, lease_seconds: float, why: str = "") -> Job:
    """Give the job to `owner`, if nothing happened to it since `seen` was judged claimable.

    A running job whose attempts died too often at one step, or that was to be held, is held
    instead. `why`: the kernel killed its last owner for lack of memory, in words.
    """
    check_unchanged(job, seen)
    _expect(job, "be claimed", State.QUEUED, State.RUNNING)
    lost = job.state is State.RUNNING
    deaths = job.deaths + lost
    if lost and (job.wish == HOLD or deaths >= job.most_deaths):
        return _quarantined(job, deaths, why)
    return replace(
        job,
        kind="claim",
        state=State.RUNNING,
        token=job.token + 1 + job.damaged,
        damaged=0,
        owner=owner,
        lease_seconds=lease_seconds,
        attempts=job.attempts + 1,
        preemptions=job.preemptions + lost,
        died=job.died + lost,
        deaths=deaths,
        failure=_described(job, Failure.OUT_OF_MEMORY, why) if lost and why else job.failure,
        wait_seconds=0.0,
        wish="",
        reason=(why or "taken over from a worker without a sign of life") if lost else "",
    )


def check_unchanged(job: Job, seen: Job) -> None:
    """Raise ConflictError where somebody has changed a job since it was seen."""
    if job.nonce != seen.nonce:
        raise ConflictError(f"{job.id} is not as it was: {describe(job)}.")


def _quarantined(job: Job, deaths: int, why: str) -> Job:
    """Hold a job whose owner died, instead of giving it to another worker."""
    during = "of the evaluation" if job.stage is Stage.EVALUATE else f"after step {job.step}"
    poison = (
        f"quarantined: its last {deaths} attempts died {during}, without a word. Look at 'runner "
        f"logs {job.id}' ({why or 'does it run out of memory?'}); 'runner unhold {job.id}' lets "
        "it go on"
    )
    return replace(
        job,
        kind="quarantine",
        state=State.HELD,
        owner=None,
        preemptions=job.preemptions + 1,
        died=job.died + 1,
        deaths=0 if job.wish == HOLD else deaths,  # that one is no poison
        wish="",
        reason="held by its user" if job.wish == HOLD else poison,
    )


def held_by(job: Job, token: int, owner: Json) -> None:
    """Raise LeaseLostError unless `owner` holds `token` and the job is running."""
    if job.state is State.RUNNING and job.token == token and job.owner == owner:
        return
    raise LeaseLostError(
        f"{job.id} is no longer this worker's (token {token}): {describe(job)}. "
        "It stops here and writes nothing more."
    )


def committed(job: Job, commit: Commit) -> Job:
    """Make checkpoints count."""
    count = len(commit.checkpoints)
    if count > _CHECKPOINTS:
        raise ConflictError(f"{job.id}: {count} checkpoints; a record names {_CHECKPOINTS}.")
    changes = {
        **commit.changes(),
        "kind": "commit",
        "checkpoints": tuple(commit.checkpoints),
        "notes": _newest_notes(job, commit.notes),
        "deaths": 0 if commit.step > job.step else job.deaths,
    }
    return replace(job, **changes)


def finished(
    job: Job,
    *,
    final: Json | None = None,
    evaluation: Json | None = None,
    evaluate: bool = True,
    notes: Sequence[str] = (),
) -> Job:
    """End a stage. Training that ends queues its evaluation in the same record.

    Held instead of queued, if its user requested that too late for the training.
    """
    more = job.stage is Stage.TRAIN and evaluate
    hold = more and job.wish == HOLD
    state = State.HELD if hold else State.QUEUED
    return replace(
        job,
        kind="finish",
        state=state if more else State.SUCCEEDED,
        stage=Stage.EVALUATE if more else job.stage,
        owner=None,
        earlier=job.attempts if more else job.earlier,
        failures=0,
        deaths=0,
        wish="",
        final=final if final is not None else job.final,
        evaluation=evaluation if evaluation is not None else job.evaluation,
        reason="held by its user" if hold else "",
        notes=_newest_notes(job, notes),
    )


def released(job: Job, reason: str, *, preempted: bool = True) -> Job:
    """Give the job back, which spends no retry. Held, if its user requested that.

    `preempted`: its machine goes; else it is left for a machine that has what it needs.
    """
    if job.wish == HOLD:
        return held(job, reason="held by its user")
    return replace(
        job,
        kind="release",
        state=State.QUEUED,
        owner=None,
        preemptions=job.preemptions + preempted,
        reason=reason[:_REASON],
    )


def held(job: Job, reason: str) -> Job:
    """Give the job back and keep workers from it: neither a preemption nor a failure."""
    return replace(job, kind="hold", state=State.HELD, owner=None, wish="", reason=reason[:_REASON])


def failed(
    job: Job,
    reason: str,
    *,
    retries: int = 0,
    kind: Failure = Failure.CRASH,
    trace: str = "",
    backoff_seconds: float = 0.0,
) -> Job:
    """Count a fault of the job's own. What was saved stays, and a finished training too.

    Args:
        job: as it is.
        reason: for people.
        retries: that it may take; from the first on each waits twice as long as the one before.
        kind: what the fault was.
        trace: key of the traceback.
        backoff_seconds: before the first retry.
    """
    failures = job.failures + 1
    again = failures <= retries
    state = State.QUEUED if again else State.FAILED
    if again and job.wish == HOLD:
        state = State.HELD
    return replace(
        job,
        kind="fail",
        state=state,
        owner=None,
        failures=failures,
        deaths=0,
        wish="",
        wait_seconds=min(MOST_BACKOFF, backoff_seconds * 2 ** min(failures - 1, 30)),
        reason=reason[:_REASON],
        failure=_described(job, kind, reason, trace),
    )


def _described(job: Job, kind: Failure, reason: str, trace: str = "") -> Json:
    return {
        "kind": kind.value,
        "stage": job.stage.value,
        "step": job.step,
        "token": job.token,
        "reason": reason[:_REASON],
        "trace": trace,
    }


def cancelled(job: Job, *, reason: str = "cancelled by its user") -> Job:
    """Stop a job, or only its evaluation where an earlier one has results; its owner notices."""
    _expect(job, "be cancelled", State.QUEUED, State.HELD, State.RUNNING, State.FAILED)
    state = State.CANCELLED
    if job.stage is Stage.EVALUATE and job.evaluation is not None:
        state, reason = State.SUCCEEDED, "its new evaluation is cancelled, its results stay"
    return replace(job, kind="cancel", state=state, owner=None, wish="", reason=reason)


def put_on_hold(job: Job, *, reason: str = "held by its user") -> Job:
    """Keep workers from claiming a job; one that is running is held by its owner, once saved."""
    if job.state is State.HELD:
        raise ConflictError(f"{job.id} is held already{f': {job.reason}' if job.reason else ''}.")
    _expect(job, "be held", State.QUEUED, State.RUNNING)
    if job.state is State.RUNNING:
        if job.wish == HOLD:
            raise ConflictError(f"{job.id} can't be held: its worker is asked to already.")
        return replace(job, kind="ask", wish=HOLD)
    return replace(job, kind="hold", state=State.HELD, reason=reason)


def unheld(job: Job) -> Job:
    """Queue a held job again, with its whole budget; or take back the request to hold it."""
    if job.state is State.RUNNING and job.wish == HOLD:
        return replace(job, kind="ask", wish="")
    _expect(job, "be unheld", State.HELD)
    return replace(job, kind="unhold", reason="", **_ANEW)


def prioritized(job: Job, priority: int) -> Job:
    """Move a job ahead of those of lower priority; one that runs is not stopped."""
    _expect(job, "get a priority", State.QUEUED, State.HELD, State.RUNNING)
    return replace(job, kind="priority", priority=priority)


def retried(job: Job) -> Job:
    """Queue a failed or cancelled job again where it stood, with all its retries."""
    _expect(job, "be retried", State.FAILED, State.CANCELLED)
    return replace(job, kind="retry", failures=0, reason="retried by its user", **_ANEW)


def to_evaluate(job: Job) -> Job:
    """Queue the evaluation of a finished training again; its results stay until it has others."""
    _expect(job, "be evaluated", State.SUCCEEDED, State.FAILED, State.CANCELLED)
    if job.final is None:
        raise ConflictError(f"{job.id} can't be evaluated: its training has not ended.")
    return replace(
        job,
        kind="evaluate",
        stage=Stage.EVALUATE,
        earlier=job.attempts,
        failures=0,
        reason="to be evaluated again",
        **_AGAIN,
    )


def dated(after: Job, before: Job, now: datetime) -> Job:
    """Stamp a record, and count the time that an owner has worked since its last one.

    A user's record about a running job keeps the owner's time: only times of one clock are
    ever subtracted. That a damaged record was passed over is kept as a note.
    """
    if before.nonce == DAMAGED:
        after = replace(after, notes=_newest_notes(after, [before.reason]))
    if after.kind in ("ask", "priority") and after.state is State.RUNNING:
        return replace(after, updated_at=before.updated_at, spec=None)
    worked = 0.0
    if before.state is State.RUNNING and after.token == before.token and after.kind not in _OTHERS:
        worked = max(0.0, (now - before.updated_at).total_seconds())
    return replace(
        after,
        updated_at=now,
        worked_seconds=before.worked_seconds + worked,
        spent_seconds=after.spent_seconds + worked,
        spent_gpu_seconds=after.spent_gpu_seconds + worked * gpus(before),
        spec=None,
    )


def gpus(job: Job) -> int:
    """Return how many GPUs the owner uses; first versions counted all of its machine."""
    count = (job.owner or {}).get("gpus", 0)
    return count if type(count) is int and 0 <= count <= 1024 else 0


def over_budget(job: Job, since_seconds: float = 0.0) -> str:
    """Return why a job has spent its budget, or "".

    `since_seconds`: what its owner has worked since the newest record.
    """
    spent = {
        "hours": job.spent_seconds + since_seconds,
        "gpu_hours": job.spent_gpu_seconds + since_seconds * gpus(job),
    }
    for name, most in (job.budget or {}).items():
        if spent.get(name, 0.0) >= most * 3600:
            words = name.replace("gpu_", "GPU ")
            return (
                f"its budget of {most:g} {words} is spent; 'runner unhold {job.id}' gives it "
                "as much again"
            )
    return ""


def describe(job: Job) -> str:
    """Return where a job stands, for a sentence."""
    words = f"it {'has' if job.state in (State.SUCCEEDED, State.FAILED) else 'is'} {job.state}"
    if job.state is State.RUNNING and job.owner:
        words += f" on {job.owner.get('host', 'another machine')} (token {job.token})"
    return f"{words}, {job.reason}" if job.reason else words


def _expect(job: Job, what: str, *states: State) -> None:
    if job.state not in states:
        *others, last = states
        known = f"{', '.join(others)} or {last}" if others else last
        does = " be" if what.startswith("be ") else ""
        raise ConflictError(f"{job.id} can't {what}: {describe(job)}. Only {known} jobs can{does}.")


def _newest_notes(job: Job, notes: Sequence[str]) -> tuple[str, ...]:
    return (*job.notes, *(note[:500] for note in notes))[-_NOTES:]
