"""The jobs in a store: submitted once, claimed by one worker at a time, never lost.

There is no server. What is in the bucket is the queue, and `status` reads it from there.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

from runner.errors import (
    ConflictError,
    DamagedRecordError,
    NotFoundError,
    OneObjectError,
    StoreError,
)
from runner.queue import job as jobs
from runner.queue import protocol, removal
from runner.queue.job import Job, Json, State
from runner.queue.lease import Holder, Lease
from runner.queue.owner import is_alive
from runner.queue.protocol import Availability, Heartbeat, Transition, Watch
from runner.store.base import Store
from runner.store.probe import check_once
from runner.store.steps import boot_clock, run

logger = logging.getLogger(__name__)

NEWS = "workers/news.txt"


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


def random_nonce() -> str:
    """Return a name that nobody else has."""
    return token_hex(12)


class Queue:
    """The jobs in one store.

    >>> from runner.store.filesystem import open_store
    >>> queue = Queue(open_store("/tmp/jobs"))
    >>> job = queue.submit("cats", {"seed": 1})
    >>> lease = queue.claim(job, {"host": "here", "pid": 1})
    >>> lease.release("going home").state, queue.job("cats").preemptions
    (<State.QUEUED: 'queued'>, 1)
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] = boot_clock,
        now: Callable[[], datetime] = utc_now,
        nonce: Callable[[], str] = random_nonce,
    ) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._now = now
        self._nonce = nonce
        self._watch = Watch()

    def submit(self, job_id: str, spec: Json, begins: Json | None = None) -> Job:
        """Store a job; once this returns, it survives the death of every machine.

        The same name and content again returns the job as it is. Other content: ConflictError.
        `begins`: fields of its record 0, where it goes on from another job.
        """
        from runner.store import allowed

        check_once(self.store)
        allowed.remember(spec, self.store.url)
        steps = protocol.submit(job_id, spec, nonce=self._nonce, now=self._now, begins=begins)
        return run(self.store, steps)

    def ids(self) -> list[str]:
        """Return the ids of all jobs, sorted."""
        return run(self.store, protocol.ids())

    def job(self, job_id: str) -> Job:
        """Return a job as it is now. Raises NotFoundError with the nearest names."""
        found = self.find(job_id)
        if found is None:
            raise self._not_found(job_id)
        return found

    def find(self, job_id: str) -> Job | None:
        """Return a job as it is now, or None."""
        return run(self.store, protocol.load(job_id)) if jobs.is_id(job_id) else None

    def jobs(self, on_error: Callable[[str, StoreError], None] | None = None) -> list[Job]:
        """Return all jobs, sorted by id; two small reads for each.

        A job whose records can't be read hides no other: `on_error` gets its id and why
        (without it, a warning is logged).
        """
        return self.look(self.ids(), {}, on_error)

    def look(
        self,
        names: Collection[str],
        known: Mapping[str, Job],
        on_error: Callable[[str, StoreError], None] | None = None,
    ) -> list[Job]:
        """Return those of these jobs that there are, as `jobs` does; one read for a known one."""
        found: list[Job] = []
        steps = protocol.load_all(sorted(filter(jobs.is_id, names)), known)
        for job_id, job in run(self.store, steps).items():
            if isinstance(job, Job):
                found.append(job)
            elif on_error is not None:
                on_error(job_id, job)
            else:
                logger.warning("job %s can't be read: %s", job_id, job)
        return found

    def without_spec(self, jobs: Collection[Job]) -> dict[str, StoreError]:
        """Return, by id, why jobs can't be resumed: record 0 is gone or damaged. One read each."""
        return run(self.store, protocol.without_spec(jobs))

    def require_whole(self, job_id: str) -> None:
        """Raise DamagedRecordError where records other than the first are gone. One listing."""
        run(self.store, protocol.require_whole(job_id))

    def spec(self, job_id: str, digest: str = "") -> dict[str, Any]:
        """Return the spec that a job was submitted with, if it still is what its digest says.

        `digest`: of the spec, as a newer record of the job has it.
        """
        try:
            if jobs.is_id(job_id):
                return dict(run(self.store, protocol.spec(job_id, digest)))
        except NotFoundError:
            if self.find(job_id) is not None:
                raise protocol.gone(job_id) from None
        raise self._not_found(job_id)

    def availability(self, job: Job) -> Availability:
        """Return whether the job may be claimed now, and if not, when.

        Where the store keeps no times, ask repeatedly: the lease expires when nothing changed
        between two calls that are more than the lease apart.
        """
        steps = protocol.availability(job, watch=self._watch, clock=self._clock, alive=is_alive)
        return run(self.store, steps)

    def claim(
        self,
        job: Job,
        owner: Json,
        *,
        judged: Availability | None = None,
        why: str = "",
        prepared: float = 0.0,
    ) -> Lease:
        """Become the owner of a job, as it was read.

        Args:
            job: as it was read.
            owner: who claims.
            judged: saves asking whether a running job may be claimed.
            why: the kernel killed the last owner for lack of memory, in words.
            prepared: seconds that this machine has imported for it: they are part of its start.

        Raises:
            ConflictError: it may not be claimed, someone was first, anything else happened to
                the job meanwhile, or it is held now because too many attempts died.
        """
        if job.state is State.RUNNING:
            judged = judged or self.availability(job)
            if not judged.claimable:
                raise ConflictError(f"{job.id} can't be claimed: {judged.why}.")
        steps = protocol.claim(
            job,
            owner,
            lease_seconds=self.lease_seconds,
            nonce=self._nonce,
            now=self._now,
            why=why,
            beat=self._last_beat(job),
            prepared=prepared,
        )
        try:
            claimed = run(self.store, steps)
        except NotFoundError as error:
            if self.find(job.id) is None:
                raise ConflictError(f"{job.id} can't be claimed: it was removed.") from error
            raise protocol.gone(job.id) from None
        if claimed.state is not State.RUNNING:
            raise ConflictError(f"{job.id} can't be claimed: {jobs.describe(claimed)}.")
        holder = Holder(claimed, nonce=self._nonce, now=self._now)
        lease = Lease(self.store, holder, clock=self._clock)
        lease.spent.add("start", prepared)
        return lease

    def _last_beat(self, job: Job) -> Heartbeat | None:
        """Return what a dead worker told last: for people, so that a failure harms nothing."""
        with suppress(StoreError):
            return self.heartbeat(job) if job.state is State.RUNNING else None
        return None

    def heartbeat(self, job: Job) -> Heartbeat | None:
        """Return the last sign of life of the job's owner, None before the first."""
        return run(self.store, protocol.heartbeat(job))

    def heartbeats(self, running: Iterable[Job]) -> dict[str, Heartbeat]:
        """Return the last signs of life of many jobs, by id; one read for each, all at once."""
        return run(self.store, protocol.heartbeats(list(running)))

    def cancel(self, job_id: str) -> Job:
        """Stop a job for good. Its owner notices at its next renewal."""
        self.job(job_id)
        try:
            return run(self.store, protocol.cancel(job_id, nonce=self._nonce, now=self._now))
        except NotFoundError:
            raise protocol.gone(job_id) from None

    def hold(self, job_id: str, *, reason: str = "held by its user") -> Job:
        """Keep workers from claiming a job; the owner of one that runs saves and holds it."""
        return self._change(job_id, partial(jobs.put_on_hold, reason=reason))

    def hold_queued(self, job: Job, reason: str) -> Job:
        """Hold a job that waits in vain, unless anything happened to it since it was read."""

        def transition(now: Job) -> Job:
            jobs.check_unchanged(now, job)
            return jobs.put_on_hold(now, reason=reason)

        return self._change(job.id, transition)

    def unhold(self, job_id: str) -> Job:
        """Queue a held job again."""
        return self._bring_forward(job_id, jobs.unheld)

    def prioritize(self, job_id: str, priority: int) -> Job:
        """Let a job go before those of lower priority."""
        return self._bring_forward(job_id, partial(jobs.prioritized, priority=priority))

    def evaluate(self, job_id: str) -> Job:
        """Queue the evaluation of a finished training again."""
        return self._bring_forward(job_id, jobs.to_evaluate)

    def news(self) -> bytes | None:
        """Return what changes whenever a user brings a job forward."""
        return self.store.read(NEWS, max_bytes=1000)

    def _bring_forward(self, job_id: str, transition: Transition) -> Job:
        """Change a job at which workers do not look all the time, and leave word of it."""
        job = self._change(job_id, transition)
        with suppress(StoreError):  # then they see it a few minutes later
            self.store.put(NEWS, self._nonce().encode())
        return job

    def require_something(self, job_id: str) -> None:
        """Raise NotFoundError where there is no job of this id, nor anything left of one."""
        if not self.store.list(f"{protocol.base(job_id)}/"):
            raise self._not_found(job_id)

    def require_free(self, job_id: str) -> None:
        """Raise ConflictError where a job of this name is being removed, objects and all."""
        run(self.store, removal.require_free(job_id))

    def remove(self, job_id: str) -> None:
        """Remove a job that is not running, with all its objects; its name is free then.

        Cut off at any moment it leaves the job, or what is none any more and `leftovers` finds.

        Raises:
            NotFoundError: there is nothing of such a job.
            ConflictError: it is running, or its worker may still write.
        """
        self.require_something(job_id)
        job = None
        with suppress(DamagedRecordError):
            job = self.find(job_id)
        if job is not None and job.state is State.RUNNING:
            judged = self.availability(job)
            if not judged.claimable:
                words = f"{judged.why}. Cancel or hold it before"
                raise ConflictError(f"{job_id} can't be removed: {words}.")
        run(self.store, removal.remove(job_id, job, nonce=self._nonce, now=self._now))
        removal.close_down(self.store, job_id)

    def remove_leftover(self, job_id: str, *, older_than: float) -> bool:
        """Remove what `leftovers` found; False: it is, or may be, a job by now."""
        with suppress(ConflictError, DamagedRecordError, OneObjectError):
            run(self.store, removal.remove_leftover(job_id, older_than=older_than))
            removal.close_down(self.store, job_id)
            return True
        return False

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again, where it stood."""
        return self._bring_forward(job_id, jobs.retried)

    def _change(self, job_id: str, transition: Transition) -> Job:
        known = self.job(job_id)
        steps = protocol.change(job_id, transition, nonce=self._nonce, now=self._now, known=known)
        try:
            return run(self.store, steps)
        except NotFoundError:
            raise protocol.gone(job_id) from None

    def _not_found(self, job_id: str) -> NotFoundError:
        from difflib import get_close_matches

        known = [name for name in self.ids() if name != job_id]
        near = get_close_matches(job_id, known, n=3)
        words = f"there is no job {job_id!r} in {self.store.url}."
        if near:
            words += f" Did you mean {' or '.join(near)}?"
        elif known:
            words += f" There are: {', '.join(known[:5])}{' and more' if len(known) > 5 else ''}."
        else:
            words += " It has no jobs at all: is --store right?"
        return NotFoundError(words)
