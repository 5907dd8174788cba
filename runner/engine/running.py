"""One attempt: a stage under its lease, to the record that ends it.

Whatever ends an attempt, the job's log says so in one record, or says nothing and the lease
expires. Nothing is written for a job after its lease is lost.
"""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from runner import code
from runner.commit import Commit
from runner.engine.attempt import AttemptLog, Heartbeat, remove_old, trace_key
from runner.engine.faults import FINAL, kind_of, stacks, trace_of
from runner.engine.pace import Pace
from runner.engine.preemption import StopRequest
from runner.engine.stages import run_stage
from runner.errors import (
    DataAwayError,
    LeaseLostError,
    MissingHereError,
    OtherModelError,
    PreemptedError,
    StoreError,
)
from runner.exit import Exit
from runner.machine.memory import Memory, MemoryWatch
from runner.queue import job as jobs
from runner.queue.goodput import Spent
from runner.queue.job import HOLD, Failure, Job, Json, State
from runner.queue.lease import Lease
from runner.queue.presence import LEFT
from runner.queue.queue import utc_now
from runner.store.base import Store
from runner.store.receiving import STAGE, Received, told_to
from runner.training.host import Host
from runner.training.progress import Progress

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 90.0
NOTE_SECONDS = 2.0  #: what hangs may be the very terminal


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
class Surroundings:
    """What all attempts of a worker share."""

    store: Store
    stop: StopRequest
    reporter: Reporter
    beat_seconds: float  #: between heartbeats
    on_beat: Callable[[], None] = lambda: None  #: in the heartbeat's thread
    on_commit: Callable[[Job], None] = lambda _: None  #: in the thread that writes checkpoints
    leave: Callable[[int], None] = os._exit  #: ends the process, whatever its threads do


class RunningAttempt(Host):
    """An attempt that has its lease: the host of its stage."""

    def __init__(self, lease: Lease, spec: Json, around: Surroundings) -> None:
        self.lease = lease
        self.spec = spec
        self.store = around.store
        self.left = ""  #: why the job was left to other machines, if it was
        self.lost = ""  #: how the job became another's, if it did
        self._job = lease.job  # as it was claimed
        self._around = around
        self._limits = _limits(spec)
        self._log = AttemptLog(around.store, lease.job.id, lease.token)
        self._heartbeat = Heartbeat(
            lease,
            self._log,
            interval_seconds=around.beat_seconds,
            on_beat=self._beaten,
            on_lost=lambda: around.stop.interrupt("the job is another's, or cancelled"),
            stalled_seconds=self._limits.stalled_seconds,
            on_stalled=self._give_up,
        )
        self._pace = Pace()
        self._hold_reason = ""
        self._notes: list[str] = []  # for the next commit
        self._began_at = time.monotonic()
        self._moved_at: float | None = None  # the first new step
        self._save_after = 0.0  # seconds from there on, while a death may be near

    def run(self) -> None:
        """Run the stage and append the record that ends it.

        Raises:
            StoreError: the bucket is away; the job stays as it is there.
        """
        handler = _LogHandler(self._log, self._around.reporter)
        logging.getLogger("runner").addHandler(handler)
        try:
            with _published(self.lease, self.store, self.spec):
                self._run()
        finally:
            logging.getLogger("runner").removeHandler(handler)
            self._flush()

    def _run(self) -> None:
        job, log, lease = self._job, self._log, self.lease
        log.write(f"attempt {job.tries} of {job.id}: {job.stage.value}, token {lease.token}")
        if job.reason:
            log.write(job.reason)
        self._remove_old()
        try:
            self._run_stage()
            log.write(_ended(lease.job))
        except PreemptedError as error:
            reason = str(error)
            log.write(f"preempted: {reason}")
            if self._hold_reason:
                self._conclude(lambda: lease.hold(self._hold_reason))
            else:
                self._conclude(lambda: lease.release(reason))
        except (MissingHereError, DataAwayError, OtherModelError) as error:
            self.left = f"{LEFT}{error}"
            log.write(self.left)
            self._conclude(lambda: lease.release(self.left, preempted=False))
        except LeaseLostError as error:
            log.write(f"lease lost: {error}")
            self.lost = str(error)
        except StoreError:
            # the job stays as it is in the bucket: whoever reaches the bucket takes it up
            log.write(traceback.format_exc())
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model's are the job's
            kind = kind_of(error)
            if kind in FINAL:
                log.write(f"failed: {error}")
                self._fail(kind, str(error), trace_of(error))
            else:
                log.write("".join(traceback.format_exception(error)))
                self._fail(kind, code.words(error), trace_of(error))

    def _remove_old(self) -> None:
        try:
            remove_old(self.store, self._job.id, self.lease.token)
        except StoreError as error:
            logger.warning("logs of earlier attempts stay: %s", error)

    def _run_stage(self) -> None:
        with self._heartbeat, MemoryWatch(self._near_the_limit):
            try:
                with self._around.stop.interrupting(), told_to(self._received):
                    run_stage(self)
            except PreemptedError:
                self._heartbeat.check()  # interrupted since the lease is lost
                raise

    def _beaten(self) -> None:
        """Look, in the heartbeat's thread, for what ends a stage in which no step asks."""
        self._around.on_beat()
        if self._around.stop.at_once and (reason := self._to_hold()):
            self._around.stop.interrupt(reason)

    def _near_the_limit(self, memory: Memory) -> None:
        # written now: the kernel's SIGKILL leaves no time for it
        self._log.write(
            f"{memory}: beyond its limit the kernel kills this attempt. Give the container more."
        )
        self._log.flush()

    def _to_hold(self) -> str | None:
        """Return why the job is to be held, if it is."""
        job = self.lease.job
        if job.wish == HOLD:
            return "held by its user"  # unless it is taken back until the job is released
        if job.budget:
            since = (utc_now() - job.updated_at).total_seconds()
            self._hold_reason = jobs.over_budget(job, max(0.0, since))
        return self._hold_reason or None

    # ------------------------------------------------------------------ the stage's host

    @property
    def prefix(self) -> str:
        """The job's folder in the store."""
        return f"jobs/{self.lease.job.id}"

    def should_stop(self) -> str | None:
        """Return why to save and stop; raises LeaseLostError."""
        self._heartbeat.check()
        return self._around.stop.reason or self._to_hold()

    @property
    def seconds_left(self) -> float | None:
        """Seconds that may be spent on saving."""
        return self._around.stop.seconds_left

    @property
    def spent(self) -> Spent:
        """The stopwatch of what the time goes into."""
        return self.lease.spent

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        return self._around.stop.take_save_request()

    def progressed(self, progress: Progress) -> None:
        """Pass progress on; the first step that is new shows what a start takes."""
        progress = self._pace.timed(progress)
        self._heartbeat.moved(progress)
        if self._pace.moved:
            self._around.stop.at_once = False  # from here on there is something to save
            self._moved_at = self._moved_at or time.monotonic()
            if self._job.deaths:
                self._save_early(time.monotonic() - self._moved_at)
        self._around.reporter.progressed(self._job, progress)
        self._log.progressed(progress)

    def _received(self, received: Received) -> None:
        """Show how much of the data is here: that is progress too."""
        done, total = received.done // 1_000_000, received.total // 1_000_000
        self.progressed(
            Progress(stage=STAGE, step=done, steps=total, eta_seconds=received.seconds_left)
        )

    def commit(self, commit: Commit) -> object:
        """Append the record, after what the log says of an epoch."""
        self._flush()
        noted = len(self._notes)
        started = self._moved_at and self._moved_at - self._began_at
        notes = [*self._notes[:noted], *commit.notes]
        result = self.lease.commit(replace(commit, notes=notes, startup_seconds=started))
        del self._notes[:noted]
        self._around.on_commit(self.lease.job)
        return result

    def note(self, text: str) -> None:
        """Report it, now and in the record of the next checkpoint."""
        logger.warning(text)
        if text not in self._notes:
            self._notes.append(text)

    def _save_early(self, seconds: float) -> None:
        """Save at once, then in twice the time, and so on: the attempts before this one died.

        Else a job whose machines live shorter than its checkpoints are apart would be taken for
        one that dies at one step, and would get nowhere.
        """
        if seconds >= self._save_after:
            self._save_after = max(1.0, 2 * seconds)
            self._around.stop.save_soon()

    # ------------------------------------------------------------------ its end

    def _fail(self, kind: Failure, reason: str, trace: bytes) -> None:
        """Append the failure, its traceback written before."""
        key = trace_key(self.lease.job.id, self.lease.token)
        try:
            self._around.store.put(key, trace)
        except StoreError as error:
            logger.warning("the traceback could not be written: %s", error)
            key = ""
        retries = 0 if kind in FINAL else self._limits.retries
        backoff = self._limits.backoff_seconds
        self._conclude(
            lambda: self.lease.fail(
                reason, retries=retries, kind=kind, trace=key, backoff_seconds=backoff
            )
        )

    def _conclude(self, append: Callable[[], object]) -> None:
        try:
            append()
        except LeaseLostError as error:
            self.lost = str(error)

    def _give_up(self) -> None:
        """End a training that hangs: its thread can't be ended, so the process is."""
        seconds = self._limits.stalled_seconds or 0.0
        reason = f"stalled: no progress for {seconds:.0f} s (limits.stalled)"
        text = f"{self.lease.job.id}: {reason}; this process ends"
        where = stacks()
        # what hangs may hold the very locks that the last words need
        words = threading.Thread(target=self._say_last, args=(reason, where), daemon=True)
        words.start()
        words.join(LAST_WORDS_SECONDS)
        note = threading.Thread(target=self._around.reporter.note, args=(text,), daemon=True)
        note.start()
        note.join(NOTE_SECONDS)
        failed = self.lease.job.state is State.FAILED
        self._around.leave(Exit.FAILED if failed else Exit.PREEMPTED)

    def _say_last(self, reason: str, where: str) -> None:
        self._log.write(f"{reason}; where its threads are:\n{where}")
        try:
            self._fail(Failure.STALLED, reason, where.encode(errors="replace"))
        except StoreError as error:
            self._log.write(f"it could not be given back: {error}")
        self._flush()

    def _flush(self) -> None:
        try:
            self._log.flush()
        except StoreError as error:
            logger.warning("the attempt's log could not be written: %s", error)


def _published(lease: Lease, store: Store, spec: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Keep the job's page if its spec asks for it; else nothing is imported or asked."""
    report = spec.get("report")
    if not (isinstance(report, Mapping) and report.get("publish") is True):
        return nullcontext()
    try:
        from runner.report.publishing import publishing
    except ImportError as error:
        logger.warning("the page could not be written: %s", error)
        return nullcontext()
    return publishing(lease, store)


def _ended(job: Job) -> str:
    """Say how a stage ended, with the numbers that it was for."""
    if job.stage is jobs.Stage.EVALUATE and job.results and job.state is State.SUCCEEDED:
        found = (f"{n} {v:.4f}" for n, v in job.results.items() if isinstance(v, float))
        return f"the evaluation has ended: {', '.join(found)}"
    epochs = f"{job.epoch} epoch{'' if job.epoch == 1 else 's'}"
    return f"the training has ended after {epochs}, at step {job.step}"


class _Limits(NamedTuple):
    retries: int
    backoff_seconds: float
    stalled_seconds: float | None


def _limits(spec: Mapping[str, Any]) -> _Limits:
    """What a spec says of failures. It may be one of an older version, or wrong altogether."""
    from runner.specparts import Limits, seconds

    try:
        limits = Limits.model_validate(spec.get("limits") or {})
    except ValueError:  # the stage itself will report it
        limits = Limits()
    retries = spec.get("retries", 0)
    return _Limits(
        retries if type(retries) is int else 0,
        seconds(limits.backoff),
        seconds(limits.stalled) if limits.stalled else None,
    )


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
