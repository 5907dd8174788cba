"""Of all workers that believe they hold a job, only the last to claim it counts.

A claim appends the next numbered record to the job's log. Two claimers write the same number,
the store accepts one. Every later record of the owner carries its token and follows the record
it had seen, so that a worker which was frozen, cut off or started twice can't add any. Clocks
only decide when a claim is allowed; a wrong guess wastes work and breaks nothing.

All of it is generators over store operations (see `store/log.py`): no I/O, no clock, no
randomness but what comes in as arguments. The simulator in the tests runs this very text.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from textwrap import shorten
from threading import Lock
from typing import Any

from msgspec import convert

from runner.errors import ConflictError, DamagedRecordError, NotFoundError, StoreError
from runner.queue import goodput
from runner.queue import job as jobs
from runner.queue.job import Job, Json, State, check_id, describe, from_json, to_json
from runner.queue.record import amounts, finite
from runner.queue.texts import differences, shown_differences
from runner.store import appending, log
from runner.store.heads import heads
from runner.store.log import Record
from runner.store.steps import Age, Folders, Read, ReadMany, Steps
from runner.store.thinning import listed

Nonce = Callable[[], str]
Now = Callable[[], datetime]
Transition = Callable[[Job], Job]

FOLDER = "jobs/"


def base(job_id: str) -> str:
    """Return the folder of a job, without the slash."""
    return f"{FOLDER}{check_id(job_id)}"


def beat_key(job_id: str, token: int) -> str:
    """Return the key of the heartbeat of a token's owner."""
    return f"{base(job_id)}/lease/{token}.json"


def submit(
    job_id: str, spec: Json, *, nonce: Nonce, now: Now, begins: Json | None = None
) -> Steps[Job]:
    """Create record 0. The same spec again returns the job as it is; another: ConflictError.

    `begins`: fields of a record, where it goes on from another job.
    """
    new = replace(jobs.submitted(job_id, spec, now()), nonce=nonce(), **(begins or {}))
    there = yield from appending.settle(base(job_id), to_json(new), None)
    found = from_json(there, job_id)
    if found.nonce == new.nonce:
        return found
    newest = yield from log.head(base(job_id))
    if newest is not None and (yield from _living(newest, job_id)) is None:
        raise half_removed(job_id)
    if found.spec_digest != new.spec_digest:
        raise conflict(job_id, there.get("spec") or {}, spec)
    return (yield from load(job_id)) or found


def conflict(job_id: str, there: Json, spec: Json) -> ConflictError:
    """Return the error for another spec under the name of a job, with what differs."""
    differing = differences(there, spec)
    before, epochs = differing.get("training.epochs", (0, 0))
    more = isinstance(before, int) and isinstance(epochs, int) and epochs > before
    extend = f"'runner extend {job_id} --epochs {epochs}' goes on where it ended. "
    return ConflictError(
        f"there is a job {job_id} with another spec already: {shown_differences(there, spec)}. "
        f"{extend if more and len(differing) == 1 else ''}"
        'To train anew, give it another "name" (--set name=NAME; in a sweep, that of its entry).'
    )


def load(job_id: str) -> Steps[Job | None]:
    """Return the job as it is now, or None."""
    record = yield from log.head(base(job_id))
    if record is None:
        return None
    try:
        return (yield from _living(record, job_id))
    except StoreError:  # perhaps only the copy that says where to start
        record = yield from log.head(base(job_id), hinted=False)
        return None if record is None else (yield from _living(record, job_id))


def _living(record: Record, job_id: str) -> Steps[Job | None]:
    """Return the job of the newest record, or None where that says that the job is removed.

    Of a removal that was cut off after record 0, its copy may be left: a job of the same name that
    was submitted since is another one.
    """
    job = from_json(record, job_id)
    if job.kind != jobs.REMOVED:
        return job
    first = yield from log.read(base(job_id), 0)
    if first is None or from_json(first, job_id).submitted_at == job.submitted_at:
        return None
    again = yield from log.head(base(job_id), first)
    return None if again is None else from_json(again, job_id)


def half_removed(job_id: str) -> ConflictError:
    """Return the error for a job whose removal is not over."""
    return ConflictError(
        f"{job_id} is being removed, or its removal was cut off: 'runner remove {job_id}' or "
        "'runner doctor --repair' ends it. Then its name is free."
    )


def ids() -> Steps[list[str]]:
    """Return the ids of all jobs, sorted."""
    names: list[str] = yield Folders(FOLDER)
    return [name for name in names if jobs.is_id(name)]


def load_all(
    names: Collection[str], known: Mapping[str, Job] | None = None
) -> Steps[dict[str, Job | StoreError]]:
    """Return these jobs, or why they can't be read: two reads a job, one if it is in `known`."""
    known = known or {}
    records = yield from heads(
        [base(name) for name in names],
        {base(name): to_json(known[name]) for name in names if name in known},
    )
    found: dict[str, Job | StoreError] = {}
    for name, record in zip(names, records, strict=True):
        if record is not None:  # a folder without a log is no job
            job = yield from _job_or_error(record, name)
            if job is not None:
                found[name] = job
    return found


def spec(job_id: str, digest: str = "", data: bytes | None = None) -> Steps[Json]:
    """Return the spec that a job was submitted with.

    Args:
        job_id: whose.
        digest: of the spec, as a newer record has it.
        data: of record 0, where it was read already.

    Raises:
        NotFoundError: there is no record 0.
        DamagedRecordError: it is not what was written, or has another spec.
    """
    first: Record | None = None
    with suppress(DamagedRecordError):
        first = None if data is None else log.check(job_id, 0, data)
    try:
        first = first or (yield from log.read(base(job_id), 0))
    except DamagedRecordError as error:
        raise jobs.changed_spec(job_id) from error
    if first is None:
        raise NotFoundError(f"there is no record 0 of {job_id}.")
    job = from_json(first, job_id)
    if job.spec is None or digest not in ("", job.spec_digest):
        raise jobs.changed_spec(job_id)
    return job.spec


def without_spec(found: Collection[Job]) -> Steps[dict[str, StoreError]]:
    """Return which jobs have not ended and can't be resumed, as their record 0 is gone, and why."""
    going = [job for job in found if not job.ended]
    replies = yield ReadMany([log.slot(base(job.id), 0) for job in going])
    errors: dict[str, StoreError] = {}
    for job, data in zip(going, replies, strict=True):
        try:
            yield from spec(job.id, job.spec_digest, data if isinstance(data, bytes) else None)
        except NotFoundError:
            errors[job.id] = gone(job.id)
        except StoreError as error:
            errors[job.id] = error
    return errors


def require_whole(job_id: str) -> Steps[None]:
    """Raise DamagedRecordError where more than record 0 is gone from below the newest record.

    Such are records that an owner wrote after someone had removed the job.
    """
    _, first = yield from listed(base(job_id), 1)
    if first is not None:
        raise gone(job_id, first)


def gone(job_id: str, first: int = 0) -> DamagedRecordError:
    """Return the error for a job whose records, from `first` on, are not there any more."""
    which = f", the first of them {first}" if first else ""
    again = "" if first else "submit the same spec again, or "
    return DamagedRecordError(
        f"records of {job_id} are gone from {base(job_id)}/log{which}. Bring them back from a copy "
        f"of the store, or {again}remove the whole of {base(job_id)} to forget the job."
    )


def change(
    job_id: str,
    transition: Transition,
    *,
    nonce: Nonce,
    now: Now,
    known: Job | None = None,
    claim: tuple[int, str] | None = None,
) -> Steps[Job]:
    """Append what `transition` makes of the newest record; `known` is where to start looking."""
    begun = known and known.submitted_at

    def following(record: Record) -> Record:
        nonlocal begun
        before = from_json(record, job_id)
        after = transition(before)  # which tells an owner that its lease is lost
        if before.kind == jobs.REMOVED:
            raise NotFoundError(f"{job_id} was removed.")
        if before.submitted_at != (begun := begun or before.submitted_at):
            raise ConflictError(f"{job_id} was removed meanwhile, and submitted anew.")
        return to_json(jobs.dated(after, before, now()))

    start = None if known is None else to_json(known)
    steps = appending.append(base(job_id), following, nonce, known=start, claim=claim)
    return from_json((yield from steps), job_id)


def claim(
    seen: Job,
    owner: Json,
    *,
    lease_seconds: float,
    nonce: Nonce,
    now: Now,
    why: str = "",
    beat: "Heartbeat | None" = None,
    prepared: float = 0.0,
) -> Steps[Job]:
    """Make `owner` the owner, unless anything happened to the job since `seen` was read.

    The job returned may be held instead: see `job.claimed`. `beat`: of its last owner, who died.
    `prepared`: seconds right before the claim that were no waiting.
    """

    def transition(job: Job) -> Job:
        after = jobs.claimed(job, seen=seen, owner=owner, lease_seconds=lease_seconds, why=why)
        began = now() - timedelta(seconds=prepared)
        return replace(after, time=goodput.taken_over(job, beat, began))

    return (yield from change(seen.id, transition, nonce=nonce, now=now, known=seen))


def cancel(job_id: str, *, nonce: Nonce, now: Now) -> Steps[Job]:
    """Cancel a job; one that is cancelled already stays so."""
    found = yield from load(job_id)
    if found is not None and found.kind == "cancel":
        return found
    try:
        return (yield from change(job_id, jobs.cancelled, nonce=nonce, now=now, known=found))
    except ConflictError:
        found = yield from load(job_id)
        if found is not None and found.kind == "cancel":
            return found  # someone else did it meanwhile
        raise


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a job may be claimed now, and what is known of its owner."""

    claimable: bool
    why: str  #: for a sentence: "it is queued", "its worker gave no sign of life for 75 s"
    owner_alive: bool | None = None  #: None: can't be told from here
    seen_seconds: float | None = None  #: since the owner's last sign of life, at least
    expires_in: float | None = None  #: seconds until anyone may claim, if no sign comes


class Watch:
    """How long a job's owner has shown nothing new, by this process's own clock.

    For stores that keep no times of their own. No clock of another machine is ever read.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, bytes | None], float]] = {}
        self._lock = Lock()

    def unchanged_for(self, job: Job, beat: bytes | None, now: float) -> float:
        """Return the seconds for which the job's record and heartbeat were as they are now."""
        sign = (job.number, beat)
        with self._lock:
            before = self._seen.get(job.id)
            if before is None or before[0] != sign:
                self._seen[job.id] = (sign, now)
                return 0.0
            return max(0.0, now - before[1])


def availability(
    job: Job, *, watch: Watch, clock: Callable[[], float], alive: Callable[[Json], bool | None]
) -> Steps[Availability]:
    """Return whether a job may be claimed: its owner has gone, or its lease has expired."""
    if job.state is State.QUEUED and job.wait_seconds:
        return (yield from _after_waiting(job, watch, clock))
    if job.state is not State.RUNNING:
        return Availability(claimable=job.state is State.QUEUED, why=describe(job))
    lives = alive(job.owner) if job.owner else None
    if lives is False:
        return Availability(claimable=True, why="its worker's process is gone", owner_alive=False)
    silent = yield from _silence(job, watch, clock)
    left = job.lease_seconds - silent
    if left < 0:
        why = f"its worker gave no sign of life for {silent:.0f} s"
    else:
        why = f"{describe(job)}, seen {silent:.0f} s ago"
    return Availability(
        claimable=left < 0,
        why=why,
        owner_alive=lives,
        seen_seconds=silent,
        expires_in=max(0.0, left),
    )


def _after_waiting(job: Job, watch: Watch, clock: Callable[[], float]) -> Steps[Availability]:
    """Wait before a retry: a courtesy to whatever failed, not a rule that claims are held to."""
    watched = watch.unchanged_for(job, None, clock())
    number, record = job.number, job
    while record.kind == "priority" and number > 1:  # which changes nothing about the wait
        number -= 1
        try:
            found = yield from log.read(base(job.id), number)
        except DamagedRecordError:
            break
        if found is None:
            break
        record = from_json(found, job.id)
    age: float | None = yield Age(log.slot(base(job.id), number))
    left = max(0.0, job.wait_seconds - (watched if age is None else age))
    brief = shorten(describe(job), 100, placeholder=" …").rstrip(".")  # its attempt said all
    why = f"{brief}; tried again in {left:.0f} s"
    return Availability(claimable=left == 0.0, why=why, expires_in=left)


def _silence(job: Job, watch: Watch, clock: Callable[[], float]) -> Steps[float]:
    """Return the seconds since the owner's last sign of life, or less, never more.

    The store's own times answer at once, even to a process that just started. The claim counts
    as the first sign of life.
    """
    key = beat_key(job.id, job.token)
    beat = yield Read(key)
    watched = watch.unchanged_for(job, beat, clock())
    age: float | None = yield Age(log.slot(base(job.id), job.number) if beat is None else key)
    return watched if age is None else age


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """An owner's last sign of life: for people, and for nothing that must be right."""

    token: int
    sequence: int = 0  #: renewals so far
    step: int = 0  #: of the training, committed or not
    epoch: int = 0
    metrics: Mapping[str, float | None]  #: as of the last step; None: not a finite number
    unsaved_seconds: float = 0.0  #: of training that would be repeated if the machine died now
    sent_at: datetime | None = None  #: by the owner's clock
    details: Mapping[str, Any] = field(default_factory=dict)  #: what else the worker wants to show
    time: Json = field(default_factory=dict)  #: seconds by cause, as in the job's record


def heartbeat(job: Job) -> Steps[Heartbeat | None]:
    """Return the sign of life of the job's owner, or None."""
    data = yield Read(beat_key(job.id, job.token))
    return None if data is None else parse_beat(data, job.token)


def heartbeats(running: Sequence[Job]) -> Steps[dict[str, Heartbeat]]:
    """Return the signs of life of many jobs' owners, by job id."""
    replies = yield ReadMany([beat_key(job.id, job.token) for job in running])
    beats = {
        job.id: parse_beat(data, job.token)
        for job, data in zip(running, replies, strict=True)
        if isinstance(data, bytes)
    }
    return {job_id: beat for job_id, beat in beats.items() if beat is not None}


def parse_beat(data: bytes, token: int) -> Heartbeat | None:
    """Return the heartbeat in `data`; None for anything else, since nothing depends on it."""
    try:
        beat = convert({**log.parse(data, "heartbeat"), "token": token}, Heartbeat)
        shown = islice(beat.metrics.items(), 100)
        return replace(
            beat,
            metrics={jobs.line(name[:100]): value and finite(value) for name, value in shown},
            unsaved_seconds=finite(beat.unsaved_seconds) or 0.0,
            time=amounts(beat.time) or {},
        )
    except (StoreError, ValueError):
        return None


def _job_or_error(record: Record | StoreError, job_id: str) -> Steps[Job | StoreError | None]:
    try:
        if isinstance(record, StoreError):
            raise record
        return (yield from _living(record, job_id))
    except StoreError as error:
        try:
            return (yield from load(job_id)) or error
        except StoreError as still:
            return still
