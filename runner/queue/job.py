"""A job is one record that holds its whole state, and every change of it has a name.

                     submit            claim              finish (train)
            (none) ────────▶ queued ──────────▶ running ─────────────────▶ queued, evaluate
                             ▲ │ hold ▲ release │ │ │ ▲    finish (evaluate)
                       unhold│ ▼      └─────────┘ │ └─┘claim ─────────────▶ succeeded
                             held                 │   after the lease lapsed
    any but succeeded ── cancel ──▶ cancelled     └─ fail ──▶ queued, or failed when the
    failed, cancelled ── retry ───▶ queued                    retries are used up

The functions below are pure: a job and arguments in, the next job out, or ConflictError with
the reason. `token` grows by one at every claim: it tells the owners of a job apart.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from runner.errors import ConflictError, LeaseLostError, SpecError, StoreError

Json = Mapping[str, Any]

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NOTES = 20  # the newest are kept: a record stays one small request
_CHECKPOINTS = 64


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: anyone may claim it
    HELD = "held"  #: waits until it is let go
    RUNNING = "running"  #: claimed; whether its owner lives is another question
    SUCCEEDED = "succeeded"  #: trained, and evaluated if asked for
    FAILED = "failed"  #: its own fault, and no retries left
    CANCELLED = "cancelled"  #: someone said so


class Stage(StrEnum):
    """What there is to do."""

    TRAIN = "train"
    EVALUATE = "evaluate"


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One record of a job's log: all there is to know about the job at that moment."""

    id: str  #: the spec's name; never used again for another spec
    number: int  #: of this record in the job's log
    kind: str  #: the change that wrote it: submit, claim, commit, finish, release, ...
    state: State
    stage: Stage
    token: int = 0  #: grows by one at every claim
    owner: Json | None = None  #: the process that made the newest claim (see owner.py)
    lease_seconds: float = 60.0  #: without a sign of life for this long, anyone may claim
    attempts: int = 0  #: claims
    preemptions: int = 0  #: attempts that ended without fault: released, or their machine lost
    failures: int = 0  #: of this stage, since it was queued or retried
    worked_seconds: float = 0.0  #: up to the newest record of an owner; for the interval
    epoch: int = 0  #: of the newest committed checkpoint
    step: int = 0  #: of the newest committed checkpoint, in optimizer updates
    metrics: Json | None = None  #: of the newest epoch in the newest committed checkpoint
    checkpoints: tuple[Json, ...] = ()  #: references, the newest first
    best: Json | None = None  #: reference to the best checkpoint
    final: Json | None = None  #: reference to the finished training
    evaluation: Json | None = None  #: reference to the evaluation's results
    reason: str = ""  #: why it is where it is, for people
    notes: tuple[str, ...] = ()  #: what a reader of the results should know, bounded
    submitted_at: datetime
    updated_at: datetime  #: by the writer's clock: for people, never compared
    nonce: str = ""  #: who wrote this record; tells own writes from others'
    previous: str = ""  #: nonce of the record before
    spec_digest: str
    spec: Json | None = None  #: in record 0 only

    @property
    def ended(self) -> bool:
        """Whether nobody has to do anything more."""
        return self.state in ENDED


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


def spec_digest(spec: Json) -> str:
    """Return a hash of the spec's content, whatever the order of its fields."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
    )


def claimed(job: Job, *, seen: Job, owner: Json, lease_seconds: float) -> Job:
    """Give the job to `owner`, if nothing happened to it since `seen` was judged claimable."""
    if job.nonce != seen.nonce:
        raise ConflictError(f"{job.id} is not as it was: {describe(job)}.")
    _expect(job, "be claimed", State.QUEUED, State.RUNNING)
    lost = job.state is State.RUNNING
    return replace(
        job,
        kind="claim",
        state=State.RUNNING,
        token=job.token + 1,
        owner=owner,
        lease_seconds=lease_seconds,
        attempts=job.attempts + 1,
        preemptions=job.preemptions + lost,
        reason="taken over from a worker without a sign of life" if lost else "",
    )


def held_by(job: Job, token: int, owner: Json) -> None:
    """Raise LeaseLostError unless `owner` holds `token` and the job is running."""
    if job.state is State.RUNNING and job.token == token and job.owner == owner:
        return
    raise LeaseLostError(
        f"{job.id} is no longer this worker's (token {token}): {describe(job)}. "
        "It stops here and writes nothing more."
    )


def committed(
    job: Job,
    *,
    step: int,
    epoch: int,
    checkpoints: Sequence[Json],
    best: Json | None,
    notes: Sequence[str],
    metrics: Json | None = None,
) -> Job:
    """Make checkpoints count."""
    if len(checkpoints) > _CHECKPOINTS:
        raise ConflictError(
            f"{job.id}: {len(checkpoints)} checkpoints; a record names {_CHECKPOINTS}."
        )
    return replace(
        job,
        kind="commit",
        step=step,
        epoch=epoch,
        metrics=metrics if metrics is not None else job.metrics,
        checkpoints=tuple(checkpoints),
        best=best,
        notes=_newest_notes(job, notes),
    )


def finished(
    job: Job, *, final: Json | None, evaluation: Json | None, evaluate: bool, notes: Sequence[str]
) -> Job:
    """End a stage. Training that ends queues its evaluation in the same record."""
    more = job.stage is Stage.TRAIN and evaluate
    return replace(
        job,
        kind="finish",
        state=State.QUEUED if more else State.SUCCEEDED,
        stage=Stage.EVALUATE if more else job.stage,
        owner=None,
        failures=0,
        final=final if final is not None else job.final,
        evaluation=evaluation if evaluation is not None else job.evaluation,
        reason="",
        notes=_newest_notes(job, notes),
    )


def released(job: Job, *, reason: str) -> Job:
    """Give the job back: a preemption, which spends no retry."""
    return replace(
        job,
        kind="release",
        state=State.QUEUED,
        owner=None,
        preemptions=job.preemptions + 1,
        reason=reason,
    )


def failed(job: Job, *, reason: str, retries: int) -> Job:
    """Count a fault of the job's own. What was saved stays, and a finished training too."""
    failures = job.failures + 1
    return replace(
        job,
        kind="fail",
        state=State.QUEUED if failures <= retries else State.FAILED,
        owner=None,
        failures=failures,
        reason=reason,
    )


def cancelled(job: Job, *, reason: str = "cancelled by its user") -> Job:
    """Stop a job for good; its owner notices at the next renewal."""
    _expect(job, "be cancelled", State.QUEUED, State.HELD, State.RUNNING, State.FAILED)
    return replace(job, kind="cancel", state=State.CANCELLED, owner=None, reason=reason)


def put_on_hold(job: Job) -> Job:
    """Keep workers from claiming a queued job."""
    _expect(job, "be held", State.QUEUED)
    return replace(job, kind="hold", state=State.HELD, reason="held by its user")


def let_go(job: Job) -> Job:
    """Queue a held job again."""
    _expect(job, "be let go", State.HELD)
    return replace(job, kind="unhold", state=State.QUEUED, reason="")


def retried(job: Job) -> Job:
    """Queue a failed or cancelled job again where it stood, with all its retries."""
    _expect(job, "be retried", State.FAILED, State.CANCELLED)
    return replace(job, kind="retry", state=State.QUEUED, failures=0, reason="retried by its user")


def dated(after: Job, before: Job, now: datetime) -> Job:
    """Stamp a record, and count the time that an owner has worked since its last one."""
    worked = 0.0
    if before.state is State.RUNNING and after.token == before.token:
        worked = max(0.0, (now - before.updated_at).total_seconds())
    return replace(after, updated_at=now, worked_seconds=before.worked_seconds + worked, spec=None)


def describe(job: Job) -> str:
    """Return where a job stands, for a sentence."""
    words = f"it is {job.state}"
    if job.state is State.RUNNING and job.owner:
        words += f" on {job.owner.get('host', 'another machine')} (token {job.token})"
    return f"{words}, {job.reason}" if job.reason else words


def _expect(job: Job, what: str, *states: State) -> None:
    if job.state not in states:
        known = ", ".join(states)
        raise ConflictError(f"{job.id} can't {what}: {describe(job)}. Only {known} jobs can.")


def _newest_notes(job: Job, notes: Sequence[str]) -> tuple[str, ...]:
    return (*job.notes, *(note[:500] for note in notes))[-_NOTES:]


# Records as JSON. A bucket may hold anything: wrong types are a StoreError, never a surprise.


def to_json(job: Job) -> dict[str, Any]:
    """Return the record of a job."""
    record: dict[str, Any] = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    record["submitted_at"] = job.submitted_at.isoformat()
    record["updated_at"] = job.updated_at.isoformat()
    record["checkpoints"] = list(job.checkpoints)
    record["notes"] = list(job.notes)
    if job.spec is None:
        del record["spec"]
    return record


def from_json(record: Json, job_id: str) -> Job:
    """Return the job in a record. Raises StoreError for a record that is none of this job's.

    Fields of later versions of runner are left out.
    """
    try:
        if record.get("id") != job_id:
            raise TypeError(f"it belongs to {record.get('id')!r}")
        return Job(**{name: take(record) for name, take in _FIELDS.items()})
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise StoreError(
            f"record {record.get('number')!r} of job {job_id} can't be used: {error}. It was "
            "written by another program, or by a later version of runner."
        ) from error


def _a(name: str, kind: type, default: Any = ...) -> Any:
    def take(record: Json) -> Any:
        value = record[name] if default is ... else record.get(name, default)
        if type(value) is not kind:
            raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    return take


def _count(name: str) -> Any:
    def take(record: Json) -> int:
        value = record.get(name, 0)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise TypeError(f"{name} is {str(value)[:40]}, not a count")
        return value

    return take


def _maybe(name: str) -> Any:
    def take(record: Json) -> Json | None:
        value = record.get(name)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} is a {type(value).__name__}, not an object")
        return value

    return take


def _reference(value: Any) -> Json:
    """Return a checkpoint's reference if its fields, where given, are what readers expect."""
    if not isinstance(value, dict):
        raise TypeError(f"a checkpoint is a {type(value).__name__}, not an object")
    for name, kind in (("step", int), ("manifest", str), ("digest", str)):
        if name in value and type(value[name]) is not kind:
            raise TypeError(f"a checkpoint's {name} is {str(value[name])[:40]}")
    return value


def _references(record: Json) -> tuple[Json, ...]:
    return tuple(_reference(value) for value in _many("checkpoints", dict)(record))


def _maybe_reference(name: str) -> Any:
    def take(record: Json) -> Json | None:
        value = record.get(name)
        return None if value is None else _reference(value)

    return take


def line(text: str) -> str:
    """Return a text from the bucket as one line that is safe to print."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _many(name: str, kind: type) -> Any:
    def take(record: Json) -> tuple[Any, ...]:
        values = record.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise TypeError(f"{name} is not a list of {kind.__name__}")
        return tuple(values)

    return take


def _time(name: str) -> Any:
    def take(record: Json) -> datetime:
        return datetime.fromisoformat(record[name]).astimezone(UTC)

    return take


def _seconds(name: str) -> Any:
    def take(record: Json) -> float:
        value = record.get(name, 60.0)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise TypeError(f"{name} is {str(value)[:40]}, not a time in seconds")
        return float(value)

    return take


def _metrics(record: Json) -> Json | None:
    """For people alone: what is no number is left empty, and spoils no record."""
    found = _maybe("metrics")(record)
    return found and {line(name): _number(value) for name, value in found.items()}


def _number(value: object) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]
    except OverflowError:
        return None


def _amount(name: str) -> Any:
    def take(record: Json) -> float:
        value = record.get(name, 0.0)
        if type(value) not in (int, float) or not 0 <= value < 1e12:
            raise TypeError(f"{name} is {str(value)[:40]}, not an amount")
        return float(value)

    return take


_FIELDS = {
    "id": _a("id", str),
    "number": _count("number"),
    "kind": _a("kind", str),
    "state": lambda record: State(record["state"]),
    "stage": lambda record: Stage(record["stage"]),
    "token": _count("token"),
    "owner": _maybe("owner"),
    "lease_seconds": _seconds("lease_seconds"),
    "attempts": _count("attempts"),
    "preemptions": _count("preemptions"),
    "failures": _count("failures"),
    "worked_seconds": _amount("worked_seconds"),
    "epoch": _count("epoch"),
    "step": _count("step"),
    "metrics": _metrics,
    "checkpoints": _references,
    "best": _maybe_reference("best"),
    "final": _maybe_reference("final"),
    "evaluation": _maybe("evaluation"),
    "reason": lambda record: line(_a("reason", str, "")(record)),
    "notes": lambda record: tuple(line(note) for note in _many("notes", str)(record)),
    "submitted_at": _time("submitted_at"),
    "updated_at": _time("updated_at"),
    "nonce": _a("nonce", str),
    "previous": _a("previous", str, ""),
    "spec_digest": _a("spec_digest", str),
    "spec": _maybe("spec"),
}
