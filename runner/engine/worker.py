"""A worker takes up one job after the other: choose, claim, run the stage, release.

It takes the job of the highest priority, of equals the oldest, that may be claimed, whose `after`
jobs have succeeded, that fits this machine, and that can make a step before the session ends.
It reports what it leaves, with the reason: nothing in the queue is lost by not being taken.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from runner.engine.choosing import Choice, Others, Owned
from runner.engine.faults import was_killed_for_memory
from runner.engine.identity import Identity
from runner.engine.preemption import StopRequest
from runner.engine.requirements import Looking, missing_here
from runner.engine.running import Reporter, RunningAttempt, Surroundings
from runner.engine.session import Session
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    LeaseLostError,
    NotFoundError,
    OneObjectError,
    PreemptedError,
    StoreError,
    StoreRefusedError,
)
from runner.machine.memory import oom_kills
from runner.mirrors.mirroring import Mirroring
from runner.queue.drain import Drain
from runner.queue.job import Job, Json, Stage, State
from runner.queue.lease import Lease
from runner.queue.owner import this_process
from runner.queue.presence import LEFT
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.quiet import told_if_slow
from runner.store.base import Store
from runner.store.log import DAMAGED
from runner.store.steps import boot_clock
from runner.training.quiet import check_backend, import_keras

__all__ = ["Owned", "Reporter", "Worker"]

logger = logging.getLogger(__name__)

#: several beats fit into a lease, so that a lost one or two do not look like a death
BEATS_PER_LEASE = 6
NAP_SECONDS = 0.2  #: between two looks whether it is to stop
DRAINED = "asked to drain"
SLOW_IMPORT = "importing Keras and its backend takes long here; no job is claimed before"
MOST_LINES = 5  #: of jobs that are left for the same reason; more than these share one
MOST_NAMES = 4  #: in such a line


class Worker:
    """Works on a queue's jobs in this process.

    Args:
        queue: whose jobs.
        store: the queue's store.
        stop: asked between steps.
        reporter: told what happens.
        owner: who claims; this process, unless said otherwise.
        looking: at this machine, for what jobs require.
        session: until when to work; None: for ever. `watching` tells the stop request.
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
        looking: Looking | None = None,
        session: Session | None = None,
    ) -> None:
        self._queue = queue
        self._stop = stop
        self._reporter = reporter
        self._sleep = sleep
        self._session = session
        self._beat_seconds = queue.lease_seconds / BEATS_PER_LEASE
        self._me = Identity(store, owner or this_process(), looking or Looking())
        self._choice = Choice(queue, self._me, session, reporter.note)
        self.unreadable = self._choice.unreadable  #: jobs whose records can't be read
        self.held = self._choice.held  #: jobs that it held, as they could not be continued
        self._others = Others(queue)
        self._mirroring = Mirroring(queue)
        self._drain = Drain(store, self._me.name)
        self._around = Surroundings(
            store=store,
            stop=stop,
            reporter=reporter,
            beat_seconds=self._beat_seconds,
            on_beat=self._beaten,
            on_commit=lambda job: self._mirroring.see([job]),
        )
        self._said: set[str] = set()
        self._until_empty = True

    @property
    def drained(self) -> bool:
        """Whether it was asked to take no more."""
        return self._stop.reason == DRAINED

    @property
    def session_over(self) -> bool:
        """Whether it ends because its session does."""
        return self._session is not None and self._session.left_seconds <= 0

    @property
    def pressed(self) -> bool:
        """Whether it left a job because its session is too short for it."""
        return self._choice.pressed

    def work(self, ids: Sequence[str] | None = None, *, until_empty: bool = True) -> list[Owned]:
        """Run what can be run.

        Args:
            ids: only these jobs; None for all of the queue.
            until_empty: return when there is nothing left to do here; else wait for more jobs
                until asked to stop or the session ends.

        Returns:
            The jobs that were left, with the reason: another worker has them, they wait for
            others, they do not fit this machine or into this session.

        Raises:
            SpecError: no job can be trained on this machine; none was claimed.
        """
        check_backend()
        self._until_empty, self._stop.idle = until_empty, True
        try:
            while not self._is_over:
                try:
                    if self._take_one(ids):
                        continue
                    waiting = self._waiting()
                    if until_empty and not waiting:
                        return self._choice.left
                    self._wait(waiting)
                except StoreError as error:
                    self._bear(error)
            return []
        finally:
            self._mirroring.close(lambda: self._is_over)
            self._me.leave()

    @property
    def _is_over(self) -> bool:
        return self._stop.reason is not None or self.session_over

    # ------------------------------------------------------------------ one job

    def _take_one(self, ids: Sequence[str] | None) -> bool:
        """Run the stage of the best job that is to be had; False if there is none."""
        for job, verdict in self._choice.candidates(ids):
            if self._attempt(job, verdict):
                return True
        self._mirroring.see(self._choice.survey.settled)
        self._me.tell(self._choice.left_to_others)
        return False

    def _attempt(self, job: Job, verdict: Availability) -> bool:
        """Claim the job and run its stage; whether to choose anew, else the next job is tried."""
        try:
            spec = self._queue.spec(job.id, job.spec_digest)
        except NotFoundError:
            return False  # removed since it was listed
        except StoreError as error:
            self._choice.pass_over(job, error)
            return False
        self.unreadable.discard(job.id)
        began = boot_clock()
        try:
            with self._importing():  # its program may import Keras itself
                lacking = missing_here(spec, self._around.store.url, begun=bool(job.checkpoints))
            if lacking:
                self._choice.postponed.add(job, f"{LEFT}{lacking}")
                return True  # what is left is looked at once more, this job among it
            self._me.tell(self._choice.left_to_others)
            with self._importing():
                import_keras()  # where it fails no job has been touched
        except PreemptedError:
            return True
        self._say_once("cards", self._me.unused())
        try:
            lease = self._claim(job, verdict, _devices(job, spec), boot_clock() - began)
        except ConflictError as error:
            logger.info("%s", error)
            return self._can_be_had(job)
        except (DamagedRecordError, OneObjectError) as error:
            self._choice.pass_over(job, error)
            return False
        self._run(lease, spec)
        return True

    @contextmanager
    def _importing(self) -> Iterator[None]:
        """Say what takes long, and let a request to stop end it at once."""
        slow = told_if_slow(partial(self._say_once, "slow"), SLOW_IMPORT)
        with self._stop.interrupting(), slow:
            yield

    def _claim(self, job: Job, verdict: Availability, devices: int | str, imported: float) -> Lease:
        kills, why = oom_kills(), ""
        if verdict.owner_alive is False and was_killed_for_memory(job.owner, kills):
            why = "taken over from a worker that the kernel killed for lack of memory"
        owner = self._me.claimant(kills, devices)
        lease = self._queue.claim(job, owner, judged=verdict, why=why, prepared=imported)
        self._reporter.started(lease.job)
        why = why or (job.reason if job.nonce == DAMAGED else "")
        if why:
            self._reporter.note(f"{job.id}: {why}")
        return lease

    def _can_be_had(self, job: Job) -> bool:
        """Whether a job that someone else was quicker to change can still be claimed."""
        now = self._choice.survey.taken(job.id)
        if now is not None and now.state is State.HELD:
            self._choice.note_held(now)
        return now is not None and now.state is State.QUEUED

    def _run(self, lease: Lease, spec: Json) -> None:
        job_id = lease.job.id
        attempt = RunningAttempt(lease, spec, self._around)
        self._stop.idle = False
        try:
            attempt.run()
        except OneObjectError as error:
            self._choice.pass_over(lease.job, error)
        except StoreRefusedError:
            raise
        except StoreError as error:
            if self._until_empty:
                raise
            self._release_when_back(lease, error)
        finally:
            self._stop.idle = True
        after = self._choice.survey.again(job_id)
        if attempt.lost and (after is None or after.kind != "cancel"):
            self._reporter.note(attempt.lost)
        if after is not None:
            self._mirroring.see([after])
            self._reporter.ended(after)
        if attempt.left and after is not None:
            self._said.add(_record(after))  # the end of the attempt has said it
            self._choice.postponed.add(after, attempt.left, begun=True)
        else:
            self._choice.postponed.forget(job_id)

    # ------------------------------------------------------------------ no job

    def _waiting(self) -> list[Owned]:
        """Report what is left; return what to wait for: what may become ours, or all."""
        left = self._choice.left
        waiting = list(filter(self._others.may_leave, left)) if self._until_empty else left
        reasons: dict[str, list[Job]] = {}
        for other in waiting or left:
            job, why = other.job, other.availability.why
            if job.state is State.RUNNING:
                if not (self._until_empty and waiting):
                    continue
                expires = other.availability.expires_in or 0
                why += f"; waiting for a sign of life, else it is taken over in {expires:.0f} s"
            if _record(job) not in self._said:
                reasons.setdefault(why, []).append(job)
        for why, jobs in reasons.items():
            self._report_left(why, jobs)
        return waiting

    def _report_left(self, why: str, jobs: Sequence[Job]) -> None:
        """Report jobs that are left for the same reason: each once, many in one line."""
        self._said.update(map(_record, jobs))
        if len(jobs) > MOST_LINES:
            names = ", ".join(job.id for job in jobs[:MOST_NAMES])
            self._reporter.note(f"{len(jobs)} jobs: {why} ({names}, …)")
            return
        for job in jobs:
            self._reporter.note(f"{job.id}: {why}")

    def _wait(self, waiting: Sequence[Owned]) -> None:
        """Wait a little for a job, for a silent worker to beat or to expire."""
        poll = self._beat_seconds / (2 if self._until_empty else 1)
        expires = [other.availability.expires_in for other in waiting]
        self._nap(min([poll, *(seconds for seconds in expires if seconds)]))
        if not self._is_over:
            self._look_for_drain()

    def _nap(self, seconds: float) -> None:
        for _ in range(math.ceil(seconds / NAP_SECONDS)):
            if self._is_over:
                return
            self._sleep(NAP_SECONDS)

    def _beaten(self) -> None:
        """In the thread of a running job's heartbeat."""
        self._look_for_drain()
        self._me.tell()

    def _look_for_drain(self) -> None:
        if self._drain.requested():
            self._stop.set(DRAINED)

    def _say_once(self, what: str, text: str) -> None:
        """Say something once, such as why a job is not worked on: once for each of its records."""
        if text and what not in self._said:
            self._said.add(what)
            self._reporter.note(text)

    # ------------------------------------------------------------------ no bucket

    def _bear(self, error: StoreError) -> None:
        """Wait a little for a bucket that is away; raise the error where nobody would."""
        if self._until_empty or isinstance(error, StoreRefusedError):
            raise error
        self._reporter.note(f"the bucket is away, waiting for it: {error}")
        self._nap(self._beat_seconds)

    def _release_when_back(self, lease: Lease, error: StoreError) -> None:
        """Release a job when its bucket is back: nobody has to wait for its lease to expire."""
        reason = f"the bucket was away: {error}"
        expired_at = boot_clock() + 2 * self._queue.lease_seconds  # free by then, all the same
        while not self._is_over and boot_clock() < expired_at:
            try:
                with suppress(LeaseLostError):
                    lease.release(reason)
                return
            except StoreError as again:
                self._bear(again)


def _devices(job: Job, spec: Json) -> int | str:
    """Return how many GPUs the stage is to use: an evaluation uses one."""
    asked: int | str = (spec.get("training") or {}).get("devices", 1)
    return asked if job.stage is Stage.TRAIN else 1


def _record(job: Job) -> str:
    return f"{job.id} {job.nonce}"
