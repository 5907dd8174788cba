"""A lease lets one worker write a job's records, until someone else claims the job.

`Holder` is the protocol, without I/O as all of `protocol.py`; `Lease` runs it on a store. Both are
safe to use from several threads, and a worker that lost it learns so at its next renewal or commit,
whichever comes first: LeaseLostError then, and for every call after.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, Concatenate, NoReturn, ParamSpec

from runner.commit import Commit
from runner.errors import LeaseLostError, NotFoundError, StoreError
from runner.queue import goodput, protocol
from runner.queue import job as jobs
from runner.queue.job import Job, Json, describe, from_json, to_json
from runner.queue.protocol import Nonce, Now, Transition
from runner.queue.record import finite
from runner.store import log
from runner.store.base import Store
from runner.store.steps import Put, Steps, run
from runner.store.thinning import Thinning

P = ParamSpec("P")


class Holder:
    """The owner's side of one claim. After LeaseLostError every further call raises it again.

    Several threads may run its protocols at once: a slow commit holds up no renewal.
    """

    def __init__(self, job: Job, *, nonce: Nonce, now: Now) -> None:
        self.job = job  #: the newest record known, written by this owner or its claim
        self._nonce = nonce
        self._now = now
        self._token = job.token
        self._claim = (job.number, job.nonce)
        self._thinning = Thinning(protocol.base(job.id), self._claim)
        self._owner: Json = dict(job.owner or {})
        self._ended = ""  # why nothing more may be written
        self._ending: set[str] = set()  # nonces of records that would end this lease
        self._sequence = 0
        self._lock = Lock()

    def renew(self, beat: Json) -> Steps[None]:
        """Show a sign of life, and look whether the job was taken over or cancelled."""
        self._check()
        self._sequence += 1
        failed: StoreError | None = None
        sign = {**beat, "token": self._token, "sequence": self._sequence}
        sign["sent_at"] = self._now().isoformat()
        try:
            yield Put(protocol.beat_key(self.job.id, self._token), log.encode(sign))
        except StoreError as error:
            failed = error  # the log still has to be looked at
        if not (yield from log.holds(protocol.base(self.job.id), *self._claim)):
            self._lose(self._removed())
        record = yield from log.head(protocol.base(self.job.id), to_json(self.job), own=True)
        if record is not None:
            self._adopt(from_json(record, self.job.id))
        if failed is not None:
            raise failed

    def commit(self, transition: Transition) -> Steps[Job]:
        """Append a record that keeps the lease. One at a time: not for several threads at once."""
        self._check()
        job = yield from self._change(transition, self._nonce)
        self._adopt(job)
        yield from self._thinning.committed(job.number)
        return job

    def end(self, transition: Transition) -> Steps[Job]:
        """Append a record that ends the lease.

        After a StoreError it may be called again: what landed meanwhile is recognised.
        """
        self._check()

        def nonce() -> str:
            fresh = self._nonce()
            self._ending.add(fresh)
            return fresh

        job = yield from self._change(transition, nonce)
        with self._lock:
            self.job = job
            self._ended = f"{job.id}: this lease (token {self._token}) has ended: {describe(job)}."
        return job

    def _change(self, transition: Transition, nonce: Nonce) -> Steps[Job]:
        def mine(job: Job) -> Job:
            if job.nonce in self._ending:
                raise _LandedError(job)
            self._hold(job)
            return transition(job)

        try:
            return (
                yield from protocol.change(
                    self.job.id, mine, nonce=nonce, now=self._now, known=self.job, claim=self._claim
                )
            )
        except _LandedError as landed:
            return landed.job
        except NotFoundError:
            self._lose(self._removed())

    def _adopt(self, job: Job) -> None:
        if job.nonce in self._ending:
            return
        self._hold(job)
        with self._lock:
            if job.number > self.job.number:
                self.job = job

    def _hold(self, job: Job) -> None:
        try:
            jobs.held_by(job, self._token, self._owner)
        except LeaseLostError as error:
            another = job.submitted_at != self.job.submitted_at
            self._lose(self._removed() if another else str(error))

    def _removed(self) -> str:
        return f"{self.job.id}: its records were removed; nothing more is saved."

    def _lose(self, why: str) -> NoReturn:
        with self._lock:
            self._ended = self._ended or why
        raise LeaseLostError(why)

    def _check(self) -> None:
        if self._ended:
            raise LeaseLostError(self._ended)


class _LandedError(Exception):
    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


def _ending(
    change: Callable[Concatenate[Job, P], Job],
) -> Callable[Concatenate["Lease", P], Job]:
    """Make a method that appends a change which ends the lease."""

    def end(lease: "Lease", /, *arguments: P.args, **named: P.kwargs) -> Job:
        return lease.end(lambda job: change(job, *arguments, **named))

    return end


class Lease:
    """The right to write a job's records, as `Queue.claim` gives it.

    Its stopwatch, `spent`, begins with the claim. What it shows is written with every record and
    heartbeat, added to the time of the attempts before.
    """

    def __init__(
        self, store: Store, holder: Holder, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        claim = holder.job
        self.spent = goodput.Spent(goodput.first_cause(claim), clock)
        self._before, self._first_step = claim.time or {}, claim.step
        self._step = claim.step  # as its owner told last
        self._store = store
        self._holder = holder
        self._writing = Lock()  # one record at a time; renewals don't wait for it

    @property
    def job(self) -> Job:
        """The newest record known to this worker."""
        return self._holder.job

    @property
    def token(self) -> int:
        """Tells this claim from all before and after it."""
        return self._holder.job.token

    def renew(
        self,
        *,
        step: int = 0,
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
        unsaved_seconds: float = 0.0,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Show a sign of life, and look for a takeover or a cancel.

        Raises LeaseLostError, or StoreError where the bucket is away: then continue, and try
        again. Call it several times within `job.lease_seconds`.
        """
        beat = {
            "step": step,
            "epoch": epoch,
            "metrics": {name: finite(value) for name, value in (metrics or {}).items()},
            "unsaved_seconds": finite(unsaved_seconds) or 0.0,
            "details": dict(details or {}),
            "time": self._time(self.spent.reading(), step),
        }
        run(self._store, self._holder.renew(beat))

    def commit(self, commit: Commit) -> Job:
        """Make checkpoints count. Their data is written."""
        commit = replace(commit, time=self._time(commit.time or self.spent.reading(), commit.step))
        with self._writing:
            return run(self._store, self._holder.commit(partial(jobs.committed, commit=commit)))

    def end(self, transition: Transition) -> Job:
        """Append a record that ends the lease; see `Holder.end`."""

        def timed(job: Job) -> Job:
            after, total = transition(job), self._time(self.spent.reading(), self._step)
            keeps_all = after.kind == "finish"
            return replace(
                after, time=total if keeps_all else goodput.closed(job.time or {}, total)
            )

        with self._writing:
            return run(self._store, self._holder.end(timed))

    def _time(self, reading: Mapping[str, float], step: int) -> dict[str, float]:
        """Return the job's seconds by cause: before this attempt, and up to a step of it."""
        self._step = max(self._step, step)
        mine = goodput.split(reading, step - self._first_step)
        return goodput.added(self._before, mine)

    #: end a stage; training queues its evaluation in the same record, if `evaluate`
    finish = _ending(jobs.finished)
    #: give the job back, for whoever comes next: not a failure, and perhaps no preemption
    release = _ending(jobs.released)
    #: give the job back, for nobody until it is unheld: neither a failure nor a preemption
    hold = _ending(jobs.held)
    #: count a failure; the job is queued again until `retries` of them are used up
    fail = _ending(jobs.failed)
