"""A worker takes up one job after the other: claim, run the stage, let go.

Whatever ends an attempt, the job's log says so in one record, or says nothing and the
lease lapses. The worker writes nothing for a job after it lost that job's lease.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from runner.engine.attempt import AttemptLog, Heartbeat
from runner.engine.memory import Memory, MemoryWatch
from runner.engine.preemption import StopRequest
from runner.engine.stages import Attempt, run_stage
from runner.errors import (
    ConflictError,
    LeaseLostError,
    PreemptedError,
    SpecError,
    StoreError,
    StoreRefusedError,
    TrainingError,
)
from runner.queue.job import Job, Json, State
from runner.queue.lease import Lease
from runner.queue.owner import this_process
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.store.base import Store
from runner.training.progress import Progress

logger = logging.getLogger(__name__)

#: several beats fit into a lease, so that a lost one or two do not look like a death
BEATS_PER_LEASE = 6
#: a heartbeat younger than this share of the lease is a living worker's
FRESH_SHARE = 0.4


class Reporter(Protocol):
    """Where a worker says what it does; the command line draws it."""

    def note(self, text: str) -> None:
        """One line for the user."""

    def started(self, job: Job) -> None:
        """An attempt begins."""

    def progressed(self, job: Job, progress: Progress) -> None:
        """A look at the running stage, several times a second at most."""

    def ended(self, job: Job) -> None:
        """The attempt is over; the job is as its log says now."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A job that another worker has."""

    job: Job
    availability: Availability


class Worker:
    """Works on a queue's jobs in this process.

    Args:
        queue: whose jobs.
        store: the queue's store.
        stop: asked between steps.
        reporter: told what happens.
        owner: who claims; this process, unless said otherwise.
    """

    def __init__(
        self,
        queue: Queue,
        store: Store,
        *,
        stop: StopRequest,
        reporter: Reporter,
        owner: Json | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._queue = queue
        self._store = store
        self._stop = stop
        self._reporter = reporter
        self._sleep = sleep
        self._owner = owner or this_process()
        self._signs: dict[str, tuple[int, int]] = {}  # other workers' tokens and beats, first seen
        self._said: set[str] = set()
        self.unreadable: set[str] = set()  #: jobs whose records make no sense

    def work(self, ids: Sequence[str] | None = None) -> list[Owned]:
        """Run what can be run until nothing is left.

        Args:
            ids: only these jobs; None for all of the queue.

        Returns:
            The jobs that were left because another worker has them.
        """
        while self._stop.reason is None:
            job, owned = self._next(ids)
            if job is not None:
                self._attempt(job)
            elif not (doubtful := [other for other in owned if not self._lives(other)]):
                return owned
            else:
                self._watch(doubtful)
        return []

    def _candidates(self, ids: Sequence[str] | None) -> Iterable[Job]:
        if ids is None:
            jobs = self._queue.jobs(self._cannot_read)
        else:
            jobs = [self._queue.job(name) for name in ids]
        return sorted(
            (
                job
                for job in jobs
                if job.state in (State.QUEUED, State.RUNNING) and job.id not in self.unreadable
            ),
            key=lambda job: (job.submitted_at, job.id),
        )

    def _cannot_read(self, job_id: str, error: StoreError) -> None:
        if job_id not in self.unreadable:
            self.unreadable.add(job_id)
            self._reporter.note(f"{job_id}: cannot be read: {error}")

    def _next(self, ids: Sequence[str] | None) -> tuple[Job | None, list[Owned]]:
        """The first job that may be claimed, or all that others have."""
        owned = []
        for job in self._candidates(ids):
            availability = self._queue.availability(job)
            if availability.claimable:
                return job, []
            owned.append(Owned(job=job, availability=availability))
        return None, owned

    def _lives(self, owned: Owned) -> bool:
        """Whether the other worker surely lives, so that there is nothing to wait for.

        Its process is seen on this machine, or it has beaten since we first looked.
        """
        seen = owned.availability.seen_seconds
        fresh = seen is not None and seen < FRESH_SHARE * self._queue.lease_seconds
        if owned.availability.owner_alive and fresh:
            return True
        beat = self._queue.heartbeat(owned.job)
        sign = (owned.job.token, beat.sequence if beat else 0)
        return self._signs.setdefault(owned.job.id, sign) != sign

    def _watch(self, doubtful: Sequence[Owned]) -> None:
        """Wait a little for a silent worker to beat or to lapse."""
        for other in doubtful:
            if other.job.id not in self._said:
                self._said.add(other.job.id)
                self._reporter.note(
                    f"{other.job.id}: {other.availability.why}; waiting for a sign of life,"
                    f" else it is taken over in {other.availability.lapses_in or 0:.0f} s"
                )
        until = time.monotonic() + self._queue.lease_seconds / BEATS_PER_LEASE / 2
        while time.monotonic() < until and self._stop.reason is None:
            self._sleep(0.2)

    def _attempt(self, job: Job) -> None:
        try:
            spec = self._queue.spec(job.id)
        except StoreRefusedError:
            raise
        except StoreError as error:
            self._cannot_read(job.id, error)
            return
        try:
            lease = self._queue.claim(job, self._owner)
        except ConflictError as error:
            self._reporter.note(f"{job.id}: {error}")
            return
        self._reporter.started(lease.job)
        log = AttemptLog(self._store, job.id, lease.token)
        handler = _LogHandler(log, self._reporter)
        logging.getLogger("runner").addHandler(handler)
        try:
            self._run(lease, log, spec)
        finally:
            logging.getLogger("runner").removeHandler(handler)
            _quietly(log.flush)
        self._reporter.ended(self._queue.job(job.id))

    def _run(self, lease: Lease, log: AttemptLog, spec: Json) -> None:
        job = lease.job
        log.write(f"attempt {job.attempts} of {job.id}: {job.stage.value}, token {lease.token}")
        interval = self._queue.lease_seconds / BEATS_PER_LEASE
        try:
            with (
                Heartbeat(lease, log, interval_seconds=interval) as heartbeat,
                MemoryWatch(partial(_near_the_limit, log)),
                self._stop.interrupting(),
            ):
                run_stage(
                    Attempt(
                        store=self._store,
                        lease=lease,
                        spec=spec,
                        should_stop=lambda: _stop_reason(self._stop, heartbeat),
                        on_progress=_Progressed(job, heartbeat, log, self._reporter, self._stop),
                        before_commit=partial(_quietly, log.flush),
                    )
                )
        except PreemptedError as error:
            reason = str(error)
            log.write(f"preempted: {reason}")
            self._conclude(lambda: lease.release(reason))
        except LeaseLostError as error:
            log.write(f"lease lost: {error}")
            self._reporter.note(str(error))
        except StoreError:
            # the job stays as it is in the bucket: whoever reaches the bucket takes it up
            log.write(traceback.format_exc())
            raise
        except (SpecError, TrainingError) as error:
            # the same again would end the same; other faults may be the machine's
            reason = str(error)
            log.write(f"failed: {reason}")
            self._conclude(lambda: lease.fail(reason, retries=0))
        except Exception as error:  # noqa: BLE001 - the model's faults are the job's
            log.write(traceback.format_exc())
            reason = f"{type(error).__name__}: {error}"
            retries = spec.get("retries", 0)
            retries = retries if isinstance(retries, int) else 0
            self._conclude(lambda: lease.fail(reason, retries=retries))

    def _conclude(self, append: Callable[[], object]) -> None:
        try:
            append()
        except LeaseLostError as error:
            self._reporter.note(str(error))


class _Progressed:
    """Passes progress on to the heartbeat and the reporter, and each epoch's metrics to the log."""

    def __init__(
        self,
        job: Job,
        heartbeat: Heartbeat,
        log: AttemptLog,
        reporter: Reporter,
        stop: StopRequest,
    ) -> None:
        self._job = job
        self._stop = stop
        self._begun_at: int | None = None
        self._heartbeat = heartbeat
        self._log = log
        self._reporter = reporter
        self._epoch: int | None = None

    def __call__(self, progress: Progress) -> None:
        self._heartbeat.progress = progress
        self._reporter.progressed(self._job, progress)
        if progress.stage not in ("train", "validate"):
            return
        self._begun_at = progress.global_step if self._begun_at is None else self._begun_at
        if progress.global_step > self._begun_at:
            self._stop.at_once = False  # from here on there is something to save
        if progress.stage != "train":
            return
        if self._epoch is None:
            self._log.write(f"training begins at step {progress.global_step}")
        elif progress.epoch > self._epoch:
            metrics = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            self._log.write(f"epoch {progress.epoch}/{progress.epochs}: {metrics}")
        self._epoch = progress.epoch


class _LogHandler(logging.Handler):
    """What is logged while an attempt runs goes into its log, and warnings to the user too."""

    def __init__(self, log: AttemptLog, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        self._log.write(text)
        if record.levelno >= logging.WARNING:
            self._reporter.note(text)


def _stop_reason(stop: StopRequest, heartbeat: Heartbeat) -> str | None:
    heartbeat.check()
    return stop.reason


def _near_the_limit(log: AttemptLog, memory: Memory) -> None:
    # written now: the kernel's SIGKILL leaves no time for it
    log.write(f"{memory}: beyond its limit the kernel kills this attempt. Give the container more.")
    log.flush()


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except StoreError as error:
        logger.warning("the attempt's log could not be written: %s", error)
