"""All jobs of a queue, looked at again and again at the cost of what changed.

A listing tells which jobs are new. One that waits or has ended changes only when a worker claims
it, and the claim is how another worker finds out, or when a user brings it forward, and leaves
word of that. The word may be lost, so now and then all are looked at.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from runner.errors import StoreError
from runner.queue.job import Job, State
from runner.queue.queue import Queue
from runner.store.steps import boot_clock

FULL_SECONDS = 300.0  #: between looks at all jobs, at least
READS_AN_HOUR = 10_000  #: that these looks take at most
MOST_AT_ONCE = 64  #: jobs looked at together, where others are at work


class OnError(Protocol):
    """Called with a job whose records can't be read."""

    def __call__(self, job_id: str, error: StoreError) -> None:
        """One job and why."""


class Survey:
    """What is known of a queue's jobs.

    Args:
        queue: whose.
        on_error: called with jobs that can't be read.
        every_change: look again at all jobs that have not ended, and once whether each new one
            has its spec: for people, to whom a job that someone has claimed waits no longer.
        clock: seconds.
    """

    def __init__(
        self,
        queue: Queue,
        on_error: OnError,
        *,
        every_change: bool = False,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._queue = queue
        self._on_error = on_error
        self._every_change = every_change
        self._clock = clock
        self._known: dict[str, Job] = {}
        self._full_at: float | None = None
        self._news: bytes | None = None
        self._ahead = 1

    def jobs(self, ids: Sequence[str] | None = None) -> list[Job]:
        """Return all jobs, or these; those of the highest priority first, of equals the oldest."""
        now, self._ahead = self._clock(), 1
        news = self._queue.news()  # before the jobs: what comes meanwhile is news the next time
        pause = max(FULL_SECONDS, 2 * len(self._known) * 3600 / READS_AN_HOUR)
        full = self._full_at is None or now - self._full_at >= pause or news != self._news
        names = self._queue.ids() if ids is None else ids
        waited_for = {name for job in self.waiting for name in job.after}
        every = {*names, *waited_for}
        if ids is None:  # of a job that was removed nothing is known if it comes again
            self._known = {name: self._known[name] for name in every & self._known.keys()}
        if full:
            self._look(every, afresh=True)
            self._full_at, self._news = now, news  # after it: one that fails has seen nothing
        else:
            self._look(filter(partial(self._may_change, waited_for), every))
        return sorted(filter(None, map(self._known.get, names)), key=_order)

    def job(self, job_id: str) -> Job | None:
        """Return one job as it was seen last."""
        if job_id not in self._known:
            self._look([job_id])
        return self._known.get(job_id)

    def again(self, job_id: str) -> Job | None:
        """Return one job as it is now."""
        job = self._queue.find(job_id)
        if job is None:
            self._known.pop(job_id, None)
        else:
            self._known[job_id] = job
        return job

    def taken(self, job_id: str) -> Job | None:
        """Return a job as it is now, for someone was first; so perhaps with those behind it.

        They are looked at too: one, then two, and so on.
        """
        seen = self._known.get(job_id)
        if seen is not None:
            behind = sorted((job for job in self.waiting if _order(job) > _order(seen)), key=_order)
            self._look([job.id for job in behind[: self._ahead]])
            self._ahead = min(2 * self._ahead, MOST_AT_ONCE)
        return self.again(job_id)

    @property
    def waiting(self) -> list[Job]:
        """All jobs that are queued, as they were seen last."""
        return [job for job in self._known.values() if job.state is State.QUEUED]

    @property
    def settled(self) -> list[Job]:
        """All jobs that nobody works on or waits to, as they were seen last."""
        busy = (State.QUEUED, State.RUNNING)
        return [job for job in self._known.values() if job.state not in busy]

    def _may_change(self, waited_for: Collection[str], job_id: str) -> bool:
        job = self._known.get(job_id)
        if job is None or job.ended:
            return job is None
        return self._every_change or job.state is State.RUNNING or job_id in waited_for

    def _look(self, ids: Iterable[str], *, afresh: bool = False) -> None:
        """Read these jobs; `afresh`: also where a log may be another than the one known."""
        names, known = set(ids), {} if afresh else self._known
        found = {job.id: job for job in self._queue.look(names, known, self._on_error)}
        if self._every_change:
            new = [job for name, job in found.items() if name not in self._known]
            for name, error in self._queue.without_spec(new).items():
                self._on_error(name, error)
                del found[name]
        for name in names:
            self._known.pop(name, None)
        self._known.update(found)


def _order(job: Job) -> tuple[int, datetime, str]:
    return (-job.priority, job.submitted_at, job.id)
