"""A job is one record that holds its whole state: plain data, and its JSON."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from runner.errors import DamagedRecordError
from runner.queue import fields
from runner.queue.fields import Json, line
from runner.store.log import DAMAGED

MOST_DEATHS = 3  #: attempts that die at one step before the job is held, unless its spec says
HOLD = "hold"  #: what a user may wish of a running job


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


class Failure(StrEnum):
    """What kind of fault ended an attempt."""

    SPEC = "spec"  #: spec or data can't work
    TRAINING = "training"  #: the training says that it can't go on
    DIVERGED = "diverged"  #: the loss became NaN or infinite
    OUT_OF_MEMORY = "out_of_memory"
    CHECKPOINT = "checkpoint"  #: nothing to go on from is whole
    STALLED = "stalled"  #: no step for longer than its spec allows
    CRASH = "crash"  #: any other exception


OF_THE_RUN = ("images_per_second", "json", "npz")  #: of an evaluation: no results of its own
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
    earlier: int = 0  #: of them, those of the stages before this one
    preemptions: int = 0  #: attempts that ended without fault: released, or their worker died
    died: int = 0  #: of them, those whose worker died without a word
    failures: int = 0  #: of this stage, since it was queued or retried
    worked_seconds: float = 0.0  #: up to the newest record of an owner; for the interval
    epoch: int = 0  #: of the newest committed checkpoint
    step: int = 0  #: of the newest committed checkpoint, in optimizer updates
    metrics: Json | None = None  #: of the newest epoch in the newest committed checkpoint
    checkpoints: tuple[Json, ...] = ()  #: references, the newest first
    best: Json | None = None  #: reference to the best checkpoint
    final: Json | None = None  #: reference to the finished training
    evaluation: Json | None = None  #: the evaluation's results, how fast it was, where it lies
    reason: str = ""  #: why it is where it is, for people
    notes: tuple[str, ...] = ()  #: what a reader of the results should know, bounded
    submitted_at: datetime
    updated_at: datetime  #: by the writer's clock: for people, never compared
    nonce: str = ""  #: who wrote this record; tells own writes from others'
    previous: str = ""  #: nonce of the record before
    spec_digest: str
    spec: Json | None = None  #: in record 0 only
    priority: int = 0  #: higher goes first
    after: tuple[str, ...] = ()  #: jobs that must have succeeded before
    requirements: Json | None = None  #: of a machine: gpu_memory_gb, labels
    budget: Json | None = None  #: hours and gpu_hours, compared with what is spent
    spent_seconds: float = 0.0  #: as worked_seconds, since it was submitted or let go
    spent_gpu_seconds: float = 0.0  #: the same, of owners that had a GPU
    startup_seconds: float = 0.0  #: from a claim to its first new step, the last time; 0: unknown
    deaths: int = 0  #: attempts in a row whose worker died at this step
    most_deaths: int = MOST_DEATHS  #: so many of them hold the job
    wait_seconds: float = 0.0  #: nobody takes it up before this record is so old
    wish: str = ""  #: of a user's, for the owner to fulfil: HOLD, or nothing
    failure: Json | None = None  #: the newest: kind, step, token, reason, trace (a key)
    damaged: int = 0  #: records since the newest claim that can't be read, and may be claims

    @property
    def ended(self) -> bool:
        """Whether nobody has to do anything more."""
        return self.state in ENDED

    @property
    def tries(self) -> int:
        """Attempts at the stage that it is in."""
        return self.attempts - self.earlier

    @property
    def preempted(self) -> int:
        """Attempts that were released: by a notice of their machine's, a signal, a drain."""
        return self.preemptions - self.died

    @property
    def results(self) -> Json | None:
        """Of the evaluation: what is the same in every repetition."""
        return _part(self.evaluation, lambda name: name not in OF_THE_RUN)

    @property
    def evaluation_run(self) -> Json | None:
        """Of the evaluation: its images per second, and the objects that hold the rest of it."""
        return _part(self.evaluation, lambda name: name in OF_THE_RUN)


def _part(evaluation: Json | None, wanted: Callable[[str], bool]) -> Json | None:
    return evaluation and {name: value for name, value in evaluation.items() if wanted(name)}


# Records as JSON. A bucket may hold anything: wrong types are damage, never a surprise.


def to_json(job: Job) -> dict[str, Any]:
    """Return the record of a job. What later versions added is left out where it says nothing."""
    record: dict[str, Any] = {name: getattr(job, name) for name in _FIELDS}
    record["submitted_at"] = job.submitted_at.isoformat()
    record["updated_at"] = job.updated_at.isoformat()
    record["checkpoints"] = list(job.checkpoints)
    record["notes"] = list(job.notes)
    for name in _TERMS:
        value = getattr(job, name)
        if value != _DEFAULTS[name]:
            record[name] = list(value) if isinstance(value, tuple) else value
    if job.spec is None:
        del record["spec"]
    return record


def from_json(record: Json, job_id: str) -> Job:
    """Return the job in a record. Fields of later versions of runner are left out.

    Raises:
        DamagedRecordError: it is none of this job's, or its spec is not the one of its digest.
    """
    try:
        if record.get("id") != job_id:
            raise TypeError(f"it belongs to {record.get('id')!r}")
        missing = [name for name in _FIELDS if name not in record and name not in _OPTIONAL]
        if missing:
            raise TypeError(f"it has no {', '.join(missing)}")
        terms = {name: _TERMS[name](record) for name in record if name in _TERMS}
        job = Job(**{name: take(record) for name, take in _FIELDS.items()}, **terms)
        changed = job.spec is not None and spec_digest(job.spec) != job.spec_digest
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise DamagedRecordError(
            f"record {record.get('number')!r} of job {job_id} can't be used: {error}. It was "
            "written by another program, or by a later version of runner."
        ) from error
    if changed:
        raise changed_spec(job_id)
    if job.nonce == DAMAGED:
        why = f"record {job.number} of its log is damaged: the one before it counts"
        return replace(job, reason=why)
    return job


def changed_spec(job_id: str) -> DamagedRecordError:
    """Return the error for a spec that is not the one of its digest: it stands nowhere else."""
    return DamagedRecordError(
        f"the spec in jobs/{job_id}/log/000000000000.json is not the one that was submitted: it was"
        " changed or damaged. Bring that object back from a copy of the store, or submit the spec "
        "under another name."
    )


def spec_digest(spec: Json) -> str:
    """Return a hash of the spec's content, whatever the order of its fields."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_FIELDS = {
    "id": fields.a("id", str),
    "number": fields.count("number"),
    "kind": fields.a("kind", str),
    "state": lambda record: State(record["state"]),
    "stage": lambda record: Stage(record["stage"]),
    "token": fields.count("token"),
    "owner": fields.maybe("owner"),
    "lease_seconds": fields.seconds("lease_seconds"),
    "attempts": fields.count("attempts"),
    "preemptions": fields.count("preemptions"),
    "failures": fields.count("failures"),
    "worked_seconds": fields.amount("worked_seconds"),
    "epoch": fields.count("epoch"),
    "step": fields.count("step"),
    "metrics": fields.metrics,
    "checkpoints": fields.references,
    "best": fields.maybe_reference("best"),
    "final": fields.maybe_reference("final"),
    "evaluation": fields.maybe("evaluation"),
    "reason": lambda record: line(fields.a("reason", str, "")(record)),
    "notes": lambda record: tuple(line(note) for note in fields.many("notes", str)(record)),
    "submitted_at": fields.time("submitted_at"),
    "updated_at": fields.time("updated_at"),
    "nonce": fields.a("nonce", str),
    "previous": fields.a("previous", str, ""),
    "spec_digest": fields.a("spec_digest", str),
    "spec": fields.maybe("spec"),
}
_OPTIONAL = ("spec", "metrics", "worked_seconds")  #: only record 0 has a spec
#: fields that records of the first versions lack
_TERMS = {
    "earlier": fields.count("earlier"),
    "died": fields.count("died"),
    "priority": fields.whole("priority"),
    "after": fields.names("after"),
    "requirements": fields.requirements,
    "budget": fields.budget,
    "spent_seconds": fields.amount("spent_seconds"),
    "spent_gpu_seconds": fields.amount("spent_gpu_seconds"),
    "startup_seconds": fields.amount("startup_seconds"),
    "deaths": fields.count("deaths"),
    "most_deaths": fields.count("most_deaths"),
    "wait_seconds": fields.amount("wait_seconds"),
    "wish": fields.text("wish"),
    "failure": fields.failure,
    "damaged": fields.count("damaged"),
}
_DEFAULTS = {name: Job.__dataclass_fields__[name].default for name in _TERMS}


def terms_of(spec: Json) -> dict[str, Any]:
    """Return the fields of a job that its spec decides over."""
    terms = {
        name: spec[name]
        for name in ("priority", "after", "requirements", "budget")
        if spec.get(name)
    }
    limits = spec.get("limits")
    if isinstance(limits, dict) and "deaths" in limits:
        terms["most_deaths"] = limits["deaths"]
    return {name: _TERMS[name](terms) for name in terms}
