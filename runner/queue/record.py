"""A job is one record that holds its whole state: plain data, and its JSON.

A bucket may hold anything. The types of `Job` say what a record may hold: all else is damage,
named by its path in the record, never a surprise.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from runner.errors import DamagedRecordError
from runner.store.log import DAMAGED, damaged, slot

Json = Mapping[str, Any]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Amount = Annotated[float, Meta(ge=0, lt=1e12)]

MOST_DEATHS = 3  #: attempts that die at one step before the job is held, unless its spec says
HOLD = "hold"  #: what a user may request of a running job


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: anyone may claim it
    HELD = "held"  #: waits until it is unheld
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
    TRAINING = "training"  #: the training says that it can't continue
    DIVERGED = "diverged"  #: the loss became NaN or infinite
    OUT_OF_MEMORY = "out_of_memory"
    CHECKPOINT = "checkpoint"  #: nothing to resume from is whole
    STALLED = "stalled"  #: no step for longer than its spec allows
    CRASH = "crash"  #: any other exception


OF_THE_RUN = ("images_per_second", "json", "npz")  #: of an evaluation: no results of its own
#: of an evaluation: how large what it looked at was
SIZES = ("images", "examples", "classes", "augmented_passes", "parameters", "seed")
ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One record of a job's log: all there is to know about the job at that moment."""

    id: str  #: the spec's name; never used again for another spec
    number: Count  #: of this record in the job's log
    kind: str  #: the change that wrote it: submit, claim, commit, finish, release, ...
    state: State
    stage: Stage
    token: Count = 0  #: grows by one at every claim
    owner: Json | None = None  #: the process that made the newest claim (see owner.py)
    #: without a sign of life for this long, anyone may claim
    lease_seconds: Annotated[float, Meta(gt=0, lt=1e9)] = 60.0
    attempts: Count = 0  #: claims
    preemptions: Count = 0  #: attempts that ended without fault: released, or their worker died
    failures: Count = 0  #: of this stage, since it was queued or retried
    worked_seconds: Amount = 0.0  #: up to the newest record of an owner; for the interval
    epoch: Count = 0  #: of the newest committed checkpoint
    step: Count = 0  #: of the newest committed checkpoint, in optimizer updates
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
    # Records of the first versions lack what follows; it is written only where it says something.
    earlier: Count = 0  #: attempts of the stages before this one
    died: Count = 0  #: preemptions whose worker died without a word
    priority: Annotated[int, Meta(gt=-(1 << 31), lt=1 << 31)] = 0  #: higher goes first
    after: tuple[str, ...] = ()  #: jobs that must have succeeded before
    requirements: Json | None = None  #: of a machine: gpu_memory_gb, devices, labels
    budget: Json | None = None  #: hours and gpu_hours, compared with what is spent
    spent_seconds: Amount = 0.0  #: as worked_seconds, since it was submitted or unheld
    spent_gpu_seconds: Amount = 0.0  #: the same, of owners that had a GPU
    startup_seconds: Amount = 0.0  #: from a claim to its first new step, the last time; 0: unknown
    deaths: Count = 0  #: attempts in a row whose worker died at this step
    most_deaths: Count = MOST_DEATHS  #: so many of them hold the job
    wait_seconds: Amount = 0.0  #: nobody takes it up before this record is so old
    wish: str = ""  #: a user's request that the owner fulfils: HOLD, or nothing
    failure: Json | None = None  #: the newest: kind, step, token, reason, trace (a key)
    damaged: Count = 0  #: records since the newest claim that can't be read, and may be claims
    monitors: tuple[str, ...] = ()  #: metrics that its spec names: people want to see them first
    parent: Json | None = None  #: the job that it goes on from: job, step, epoch, take, reference
    trackers: tuple[str, ...] = ()  #: that its History is mirrored in
    time: Json | None = None  #: seconds by cause, of all attempts (see goodput.py); None: unknown

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
    def weights(self) -> str:
        """Return ` with the weights of epoch 12, its best val_loss` where those were put back."""
        weights = (self.final or {}).get("weights")
        return f" with the weights {line(weights[:200])}" if weights else ""

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


class _Reference(Struct):
    step: int = 0
    manifest: str = ""
    digest: str = ""
    weights: str = ""


class _Requirements(Struct):
    gpu_memory_gb: float | None = None
    devices: int | None = None
    labels: list[str] = []


class _Parent(Struct):
    job: str
    step: Count
    epoch: Count
    take: str
    reference: _Reference


class _Inside(Struct):
    """What must hold inside of objects that are kept whole, whatever else later versions add."""

    checkpoints: list[_Reference] = []
    best: _Reference | None = None
    final: _Reference | None = None
    requirements: _Requirements | None = None
    parent: _Parent | None = None


_NAMES = [field.name for field in fields(Job)]
_LATER = {field.name: field.default for field in fields(Job)[_NAMES.index("earlier") :]}
_REQUIRED = set(_NAMES) - _LATER.keys() - {"previous", "spec", "metrics", "worked_seconds"}


def to_json(job: Job) -> dict[str, Any]:
    """Return the record of a job. What later versions added is left out where it says nothing."""
    record = {
        name: value for name, value in vars(job).items() if value != _LATER.get(name, MISSING)
    }
    record["submitted_at"] = job.submitted_at.isoformat()
    record["updated_at"] = job.updated_at.isoformat()
    if job.spec is None:
        del record["spec"]
    return record


def from_json(record: Json, job_id: str) -> Job:
    """Return the job in a record. Fields of later versions of runner are left out.

    Raises:
        DamagedRecordError: it is none of this job's, or its spec is not the one of its digest.
    """
    try:
        if missing := _REQUIRED - record.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        if record["id"] != job_id:
            raise ValueError(f"it belongs to {record['id']!r}")
        convert(record, _Inside)
        job = _cleaned(convert(record, Job))
        changed = job.spec is not None and spec_digest(job.spec) != job.spec_digest
    except (ValueError, OverflowError, RecursionError) as error:
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


def _cleaned(job: Job) -> Job:
    """Return the job with texts that are safe to print, and numbers where people expect them."""
    return replace(
        job,
        metrics=job.metrics and {line(name): number(v) for name, v in job.metrics.items()},
        reason=line(job.reason),
        notes=tuple(map(line, job.notes)),
        submitted_at=job.submitted_at.astimezone(UTC),
        updated_at=job.updated_at.astimezone(UTC),
        after=tuple(line(name[:100]) for name in job.after),
        monitors=tuple(line(name[:100]) for name in job.monitors),
        trackers=tuple(line(name[:100]) for name in job.trackers),
        budget=amounts(job.budget),
        time=amounts(job.time),
        wish=line(job.wish),
        parent=job.parent and {**job.parent, "job": line(job.parent["job"][:100])},
        failure=job.failure
        and {
            name: line(value) if isinstance(value, str) else value
            for name, value in job.failure.items()
            if type(value) in (str, int)
        },
    )


def line(text: str) -> str:
    """Return a text from the bucket as one line that is safe to print."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        text = " ".join(text.split())  # of a list below each other
    return text.strip()


def number(value: object) -> float | None:
    """Return the value as a number; None for anything else."""
    try:
        return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]
    except OverflowError:
        return None


def finite(value: float) -> float | None:
    """Return a number that JSON can carry: None for NaN and the infinities."""
    return float(value) if math.isfinite(value) else None


def amounts(named: Json | None) -> Json | None:
    """Return the amounts above 0 by their names: of a budget, of time."""
    found = {line(name[:100]): number(value) for name, value in (named or {}).items()}
    return named and {name: value for name, value in found.items() if value and 0 < value < 1e12}


def requirements(spec: Json) -> Json | None:
    """Return what a machine must have, with as many devices as the training is to use."""
    needs, training = spec.get("requirements") or {}, spec.get("training")
    devices = training.get("devices") if isinstance(training, Mapping) else None
    if type(devices) is int:
        needs = {**needs, "devices": max(devices, needs.get("devices") or 1)}
    return needs or None


def monitors(spec: Json) -> tuple[str, ...]:
    """Return the metrics that decide over something in a spec, which may have any form."""
    training, checkpoint = spec.get("training"), spec.get("checkpoint")
    places = (training, "early_stopping"), (checkpoint, "best"), (training, "reduce_lr_on_plateau")
    parts = [part.get(name) for part, name in places if isinstance(part, Mapping)]
    named = [part.get("monitor") for part in parts if isinstance(part, Mapping)]
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))


def changed_spec(job_id: str) -> DamagedRecordError:
    """Return the error for a spec that is not the one of its digest: there is no copy of it."""
    return damaged(slot(f"jobs/{job_id}", 0))


def spec_digest(spec: Json) -> str:
    """Return a hash of the spec's content, whatever the order of its fields."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
