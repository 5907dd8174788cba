"""A lease lets one worker write a job's records, until someone else claims the job.

It is safe to use from several threads, and a worker that lost it learns so at its next
renewal or commit, whichever comes first: LeaseLostError then, and for every call after.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any

from runner.queue import job as jobs
from runner.queue.job import Failure, Job, Json
from runner.queue.protocol import Holder
from runner.store.base import Store
from runner.store.log import finite, run


class Lease:
    """The right to write a job's records, as `Queue.claim` gives it."""

    def __init__(self, store: Store, holder: Holder) -> None:
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

        Raises LeaseLostError, or StoreError where the bucket is away: then go on, and try
        again. Call it several times within `job.lease_seconds`.
        """
        beat = {
            "step": step,
            "epoch": epoch,
            "metrics": {name: finite(value) for name, value in (metrics or {}).items()},
            "unsaved_seconds": finite(unsaved_seconds) or 0.0,
            "details": dict(details or {}),
        }
        run(self._store, self._holder.renew(beat))

    def commit(
        self,
        *,
        step: int,
        epoch: int,
        checkpoints: Sequence[Json],
        best: Json | None = None,
        notes: Sequence[str] = (),
        metrics: Mapping[str, float | None] | None = None,
        startup_seconds: float | None = None,
    ) -> Job:
        """Make checkpoints count: all that are kept, the newest first. Their data is written."""
        change = partial(
            jobs.committed,
            step=step,
            epoch=epoch,
            checkpoints=checkpoints,
            best=best,
            notes=notes,
            metrics=metrics,
            startup_seconds=startup_seconds,
        )
        with self._writing:
            return run(self._store, self._holder.commit(change))

    def finish(
        self,
        *,
        final: Json | None = None,
        evaluation: Json | None = None,
        evaluate: bool = True,
        notes: Sequence[str] = (),
    ) -> Job:
        """End the stage. Training queues its evaluation in the same record, if `evaluate`."""
        return self._end(
            partial(
                jobs.finished, final=final, evaluation=evaluation, evaluate=evaluate, notes=notes
            )
        )

    def release(self, reason: str, *, preempted: bool = True) -> Job:
        """Give the job back, for whoever comes next. Not a failure, and perhaps no preemption."""
        return self._end(partial(jobs.released, reason=reason, preempted=preempted))

    def hold(self, reason: str) -> Job:
        """Give the job back, for nobody until it is let go. Neither failure nor preemption."""
        return self._end(partial(jobs.held, reason=reason))

    def fail(
        self,
        reason: str,
        *,
        retries: int = 0,
        kind: Failure = Failure.CRASH,
        trace: str = "",
        backoff_seconds: float = 0.0,
    ) -> Job:
        """Count a failure; the job is queued again until `retries` of them are used up.

        Each retry waits twice as long as the one before it, the first `backoff_seconds`. `trace`
        is the key of the traceback, which is written already.
        """
        return self._end(
            partial(
                jobs.failed,
                reason=reason,
                retries=retries,
                kind=kind,
                trace=trace,
                backoff_seconds=backoff_seconds,
            )
        )

    def _end(self, change: "partial[Job]") -> Job:
        with self._writing:
            return run(self._store, self._holder.end(change))
