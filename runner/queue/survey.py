"""All jobs of a queue, looked at again and again at little cost.

A job that goes on costs one read a look, one that has ended costs none: only a user can bring it
back, and leaves word of it. That word may be lost, so now and then all are looked at.
"""

from collections.abc import Callable
from typing import Protocol

from runner.errors import StoreError
from runner.queue.job import Job
from runner.queue.queue import Queue, boot_clock

FULL_SECONDS = 300.0  #: between looks at the jobs that have ended


class OnError(Protocol):
    """Told of a job whose records can't be read."""

    def __call__(self, job_id: str, error: StoreError) -> None:
        """One job and why."""


class Survey:
    """What is known of a queue's jobs.

    Args:
        queue: whose.
        on_error: told of jobs that can't be read.
        clock: seconds.
    """

    def __init__(
        self, queue: Queue, on_error: OnError, *, clock: Callable[[], float] = boot_clock
    ) -> None:
        self._queue = queue
        self._on_error = on_error
        self._clock = clock
        self._known: dict[str, Job] = {}
        self._full_at: float | None = None
        self._news: bytes | None = None

    def jobs(self) -> dict[str, Job]:
        """Return every job as it is now, by id; one that has ended as it was."""
        now = self._clock()
        news = self._queue.news()  # before the jobs: what comes meanwhile is news the next time
        full = self._full_at is None or now - self._full_at >= FULL_SECONDS or news != self._news
        ended = () if full else {name for name, job in self._known.items() if job.ended}
        found = self._queue.changed_jobs(self._known, ended, self._on_error)
        if full:  # after it: one that fails has seen nothing
            self._full_at, self._news = now, news
        self._known = {
            **{name: self._known[name] for name in ended},
            **{job.id: job for job in found},
        }
        return self._known

    def job(self, job_id: str) -> Job | None:
        """Return one job, as known if it has ended, else as it is now."""
        known = self._known.get(job_id)
        return known if known is not None and known.ended else self._queue.find(job_id)
