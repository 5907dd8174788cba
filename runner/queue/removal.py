"""A job is removed: its last record says so, then its objects go, and that record's copy last.

The record makes it one step: until it has landed there is a job, from then on there is none, and
what is left is garbage that nobody reads and the next removal ends. Record 0 goes after all other
records, so that the name is not taken again before everything of the old job is gone; the copy in
`head.json` outlives it and says what is left is no job. All of it is generators, see `protocol`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.errors import ConflictError, DamagedRecordError, StoreRefusedError
from runner.queue import job as jobs
from runner.queue import protocol
from runner.queue.job import Job, State, describe
from runner.queue.protocol import Nonce, Now
from runner.store import log
from runner.store.base import Store
from runner.store.filesystem import FileStore
from runner.store.log import Record
from runner.store.steps import Age, Delete, List, Put, Read, Steps

BATCH = 64  #: objects deleted between two looks whether this removal still counts


def remove(job_id: str, seen: Job | None, *, nonce: Nonce, now: Now) -> Steps[None]:
    """Remove a job, or what is left of one; again where it was cut off.

    Args:
        job_id: whose.
        seen: the job, judged to be no worker's; None: it can't be read, or is removed already.
        nonce: as everywhere.
        now: as everywhere.

    Raises:
        ConflictError: someone changed the job meanwhile, or its worker may still write.
    """
    base = protocol.base(job_id)
    if seen is not None:
        yield from _nobody_writes(seen)
        change = protocol.change(
            job_id, lambda job: removed(job, seen), nonce=nonce, now=now, known=seen
        )
        yield from _clear(base, jobs.to_json((yield from change)))
        return
    try:
        yield from remove_leftover(job_id)
    except (DamagedRecordError, StoreRefusedError):
        # its user wants it gone all the same
        keys: list[str] = yield List(f"{base}/")
        yield Delete(keys)


def remove_leftover(job_id: str, *, older_than: float = 0.0) -> Steps[None]:
    """Delete what is no job: what a removal has left, or what has no record.

    Args:
        job_id: whose.
        older_than: where there is no record, only what is so old goes, in seconds.

    Raises:
        ConflictError: it is a job by now.
        DamagedRecordError: nobody can tell.
    """
    base = protocol.base(job_id)
    last = yield from log.head(base)
    if last is None:
        yield from _clear_without_a_record(job_id, older_than)
    elif jobs.from_json(last, job_id).kind == jobs.REMOVED:
        yield from _clear(base, last)
    else:
        raise _submitted_just_now(job_id)


def _clear_without_a_record(job_id: str, older_than: float) -> Steps[None]:
    """Delete what was no job, and is none whatever of it is left."""
    keys: list[str] = yield List(f"{protocol.base(job_id)}/")
    if any(key.startswith(f"{protocol.base(job_id)}/log/") for key in keys):
        raise _submitted_just_now(job_id)
    for key in keys:  # a submit may be bringing them again
        age: float | None = yield Age(key)
        if age is None or age >= older_than:
            yield Delete([key])


def _submitted_just_now(job_id: str) -> ConflictError:
    return ConflictError(f"{job_id} can't be removed: it was submitted just now.")


def removed(job: Job, seen: Job) -> Job:
    """Return the last record of a job: nothing follows it."""
    if job.nonce != seen.nonce:
        raise ConflictError(f"{job.id} can't be removed, it is not as it was: {describe(job)}.")
    return replace(
        job,
        kind=jobs.REMOVED,
        state=State.CANCELLED,
        owner=None,
        wish="",
        checkpoints=(),
        best=None,
        final=None,
        evaluation=None,
        parent=None,
        reason="removed by its user",
    )


def require_free(job_id: str) -> Steps[None]:
    """Raise ConflictError where a job of this name is being removed: all its objects may go yet."""
    copy = yield from log.copied(protocol.base(job_id))
    if copy is not None and copy.get("kind") == jobs.REMOVED:
        raise protocol.half_removed(job_id)


def _nobody_writes(job: Job) -> Steps[None]:
    """Raise ConflictError where a worker may not have seen yet that the job was cancelled."""
    there = job
    while there.kind in jobs.BY_USERS:
        try:
            record = yield from log.read(protocol.base(job.id), there.number - 1)
        except DamagedRecordError:
            return
        if record is None:
            return
        there = jobs.from_json(record, job.id)
    if there.kind != "cancel" or not job.token:
        return
    age: float | None = yield Age(protocol.beat_key(job.id, job.token))
    if age is not None and age < job.lease_seconds:
        raise ConflictError(
            f"{job.id} can't be removed yet: its worker, seen {age:.0f} s ago, may not know that "
            f"it is cancelled, and still write. Try again in {job.lease_seconds - age:.0f} s."
        )


def _clear(base: str, last: Record) -> Steps[None]:
    """Delete everything of a removed job whose last record is `last`."""
    hint, first, newest = log.hint(base), log.slot(base, 0), log.slot(base, last["number"])
    keys: list[str] = yield List(f"{base}/")
    yield Put(hint, log.encode(last))  # it may be an older record's
    at_last = (newest, first, hint)
    before = [key for key in keys if key not in at_last]
    for batch in _batches(sorted(before, key=lambda key: key.startswith(f"{base}/log/"))):
        if not (yield from _is_of(newest, last)):
            return  # someone else has ended it, and the name may be another job's by now
        yield Delete(batch)
    for key in at_last:
        if (yield from _is_of(key, last)):
            yield Delete([key])


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _is_of(key: str, last: Record) -> Steps[bool]:
    """Whether a record is of the job that is removed, not of a later one of its name."""
    data: bytes | None = yield Read(key)
    try:
        found = None if data is None else log.decode(data, key)
    except DamagedRecordError:
        return True
    return found is not None and found.get("submitted_at") == last["submitted_at"]


def close_down(store: Store, job_id: str) -> None:
    """Remove the empty folders of a job, where the store has folders."""
    if isinstance(store, FileStore):
        store.close_down_below(protocol.base(job_id))


def leftovers(store: Store, names: Sequence[str], *, older_than: float) -> dict[str, str]:
    """Return what lies in folders of jobs and is no job, and why: removals that were cut off.

    Args:
        store: where.
        names: of the folders.
        older_than: what has no record at all may be a submit under way; seconds.
    """
    found = {name: _why_no_job(store, protocol.base(name), older_than) for name in names}
    return {name: why for name, why in found.items() if why}


def _why_no_job(store: Store, base: str, older_than: float) -> str:
    keys, hint = store.list(f"{base}/"), log.hint(base)
    records = [key for key in keys if key.startswith(f"{base}/log/")]
    if any(map(_says_removed, map(store.read, [hint, *records[-1:]]))):
        return "its removal was cut off"
    ages = [] if records or hint in keys else [store.age(key) for key in keys]
    youngest = min((age for age in ages if age is not None), default=-1.0)
    return "it has no record: its submit was cut off" if youngest >= older_than else ""


def _says_removed(data: bytes | None) -> bool:
    try:
        return data is not None and log.decode(data, "").get("kind") == jobs.REMOVED
    except DamagedRecordError:
        return False
