"""A worker takes up one job after the other: choose, claim, run the stage, let go.

It takes the job of the highest priority, of equals the oldest, that may be claimed, whose `after`
jobs have succeeded, that fits this machine, and that can make a step before the session ends.
What it leaves it says, with the reason: nothing in the queue is lost by not being taken.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from runner.engine.faults import was_killed_for_memory
from runner.engine.preemption import StopRequest
from runner.engine.requirements import Identity, Looking, missing_here
from runner.engine.running import Reporter, RunningAttempt, Surroundings
from runner.engine.session import NOT_BEGUN, Session
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    LeaseLostError,
    LinkedError,
    NotFoundError,
    PreemptedError,
    StoreError,
    StoreRefusedError,
)
from runner.machine.memory import oom_kills
from runner.queue import job as jobs
from runner.queue.drain import Drain
from runner.queue.job import Job, Json, State
from runner.queue.lease import Lease
from runner.queue.owner import this_process
from runner.queue.presence import LEFT
from runner.queue.protocol import Availability
from runner.queue.queue import Queue, boot_clock
from runner.queue.survey import Survey
from runner.store.base import Store
from runner.store.log import DAMAGED
from runner.training.quiet import check_backend, import_keras

__all__ = ["Owned", "Reporter", "Worker"]

logger = logging.getLogger(__name__)

#: several beats fit into a lease, so that a lost one or two do not look like a death
BEATS_PER_LEASE = 6
#: a heartbeat younger than this share of the lease is a living worker's
FRESH_SHARE = 0.4
AGAIN_SECONDS = 60.0  #: until a job that can't be run here is looked at again
MOST_AGAIN = 3600.0  #: seconds; each time that it was begun in vain it waits twice as long
NAP_SECONDS = 0.2  #: between two looks whether it is to stop
DRAINED = "asked to drain"


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A job that is left to others, or for later, and why."""

    job: Job
    availability: Availability


class _Later(NamedTuple):
    """A job that is not taken before a time of our clock, because."""

    why: str
    until: float
    seconds: float  #: that it waits


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
        leave: ends the process when a training hangs.
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
        leave: Callable[[int], None] | None = None,
    ) -> None:
        self._queue = queue
        self._stop = stop
        self._reporter = reporter
        self._sleep = sleep
        self._me = Identity(store, owner or this_process(), looking or Looking())
        self._session = session
        self._drain = Drain(store, self._me.name)
        self._around = Surroundings(
            store=store,
            stop=stop,
            reporter=reporter,
            beat_seconds=queue.lease_seconds / BEATS_PER_LEASE,
            on_beat=self._look_for_drain,
            **({} if leave is None else {"leave": leave}),
        )
        self._survey = Survey(queue, self._cannot_read)
        self._signs: dict[str, tuple[int, int]] = {}  # other workers' tokens and beats, first seen
        self._said: set[str] = set()
        self._patient = False  # with a bucket that is away
        self._later: dict[str, _Later] = {}  # jobs that can't be run here for now
        self.unreadable: set[str] = set()  #: jobs whose records can't be read, the last time
        self.held: list[str] = []  #: jobs that it held, as they could not go on
        self.pressed = False  #: it left a job because its session is too short for it

    @property
    def drained(self) -> bool:
        """Whether it was asked to take no more."""
        return self._stop.reason == DRAINED

    @property
    def session_over(self) -> bool:
        """Whether it ends because its session does."""
        return self._session is not None and self._session.left_seconds <= 0

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
        self._patient, self._stop.idle = not until_empty, True
        try:
            return self._work(ids, until_empty=until_empty)
        finally:
            self._me.leave()

    def _work(self, ids: Sequence[str] | None, *, until_empty: bool) -> list[Owned]:
        while self._stop.reason is None and not self.session_over:
            left: list[Owned] = []
            try:
                if any(self._attempt(job, verdict) for job, verdict in self._ready(ids, left)):
                    continue
                self._tell(left)
                waiting = [other for other in left if not until_empty or self._may_come(other)]
                if until_empty and not waiting:
                    self._say_left(left)
                    return left
                self._wait(waiting, until_empty=until_empty)
            except StoreRefusedError:
                raise
            except StoreError as error:
                if until_empty:
                    raise
                self._say_away(error)
        return []

    # ------------------------------------------------------------------ choosing

    def _ready(
        self, ids: Sequence[str] | None, left: list[Owned]
    ) -> Iterator[tuple[Job, Availability]]:
        """Yield what may be claimed, the first first; put the others into `left`."""
        names = [job.id for job in self._survey.jobs(ids)]
        # the bucket may have been away for a moment: what is read now is readable
        self.unreadable -= {*names} - self._later.keys()
        for name in names:
            job = self._survey.job(name)  # as it is known now: others take jobs meanwhile
            if job is None or job.state not in (State.QUEUED, State.RUNNING):
                continue
            verdict = self._verdict(job)
            if verdict is None:
                continue
            if verdict.claimable:
                self._tell(left)
                yield job, verdict
            else:
                left.append(Owned(job=job, availability=verdict))

    def _verdict(self, job: Job) -> Availability | None:
        """Whether this worker may take a job now; None if it is held, or unreadable, instead."""
        if job.state is State.QUEUED:
            waits, broken = self._dependencies(job)
            broken = broken or jobs.over_budget(job)
            if broken:
                self._hold(job, broken)
                return None
            if waits:
                return _no(f"it waits for {waits}")
        verdict = self._queue.availability(job)
        if not verdict.claimable:
            return verdict
        later = self._later.get(job.id)
        if later is not None and boot_clock() < later.until:
            return None if job.id in self.unreadable else _no(later.why)
        lacking = self._me.lacks(job.requirements)
        if lacking:
            return _no(f"{LEFT}{lacking}")
        short = self._session.too_short_for(job) if self._session is not None else ""
        self.pressed = self.pressed or bool(short)
        return _no(short) if short else verdict

    def _dependencies(self, job: Job) -> tuple[str, str]:
        """The jobs that this one waits for, and why it would wait in vain."""
        waits = []
        for name in job.after:
            other = self._survey.job(name)
            if other is None:
                waits.append(f"{name}, which is not there")
            elif other.state in (State.FAILED, State.CANCELLED):
                return "", (
                    f"it is to come after {name}, which is {other.state}; 'runner retry {name}', "
                    f"then 'runner release {job.id}'"
                )
            elif other.state is not State.SUCCEEDED:
                waits.append(f"{name} ({other.state})")
        return ", ".join(waits), ""

    def _hold(self, job: Job, reason: str) -> None:
        try:
            self._note_held(self._queue.hold_queued(job, reason))
        except ConflictError:
            pass  # someone else did something about it
        finally:
            self._survey.again(job.id)

    def _note_held(self, job: Job) -> None:
        self.held.append(job.id)
        self._reporter.note(f"{job.id}: held: {job.reason}")

    def _cannot_read(self, job_id: str, error: StoreError) -> None:
        if job_id not in self.unreadable:
            self.unreadable.add(job_id)
            self._reporter.note(f"{job_id}: cannot be read: {error}")

    # ------------------------------------------------------------------ waiting

    def _may_come(self, other: Owned) -> bool:
        """Whether waiting may make it ours: a retry, or a worker that may be dead."""
        if other.job.state is State.RUNNING and other.availability.seen_seconds is not None:
            return not self._lives(other)
        return other.availability.lapses_in is not None

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

    def _wait(self, waiting: Sequence[Owned], *, until_empty: bool) -> None:
        """Wait a little for a job, for a silent worker to beat or to lapse."""
        if until_empty:
            for other in waiting:
                what = other.availability.why
                if other.job.state is State.RUNNING:
                    lapses = other.availability.lapses_in or 0
                    what += f"; waiting for a sign of life, else it is taken over in {lapses:.0f} s"
                self._say(other.job, what)
        else:
            self._say_left([o for o in waiting if o.job.state is State.QUEUED])
        poll = self._queue.lease_seconds / BEATS_PER_LEASE / (2 if until_empty else 1)
        soonest = min((o.availability.lapses_in for o in waiting if o.availability.lapses_in),
                      default=poll)  # fmt: skip
        self._nap(min(poll, soonest))
        if self._stop.reason is None and not self.session_over:
            self._look_for_drain()

    def _nap(self, seconds: float) -> None:
        for _ in range(math.ceil(seconds / NAP_SECONDS)):
            if self._stop.reason is not None or self.session_over:
                return
            self._sleep(NAP_SECONDS)

    def _look_for_drain(self) -> None:
        if self._drain.requested():
            self._stop.set(DRAINED)

    def _tell(self, left: Iterable[Owned]) -> None:
        """Show others what was left for this machine's sake."""
        found = {other.job.id: other.availability.why for other in left}
        mine = {name: why for name, why in found.items() if why.startswith((LEFT, NOT_BEGUN))}
        self._me.tell(mine)

    def _say_left(self, left: Sequence[Owned]) -> None:
        for other in left:
            if other.job.state is State.QUEUED:
                self._say(other.job, other.availability.why)

    def _say(self, job: Job, why: str) -> None:
        """Say once for each record of a job why it is not worked on."""
        self._say_once(f"{job.id} {job.nonce}", f"{job.id}: {why}")

    def _say_once(self, what: str, text: str) -> None:
        if text and what not in self._said:
            self._said.add(what)
            self._reporter.note(text)

    # ------------------------------------------------------------------ working

    def _attempt(self, job: Job, verdict: Availability) -> bool:
        """Claim the job and run its stage; False if it was not to be had."""
        try:
            spec = self._queue.spec(job.id, job.spec_digest)
        except NotFoundError:
            return False  # removed since it was listed
        except StoreError as error:
            return self._pass_over(job, error)
        self.unreadable.discard(job.id)
        if lacking := missing_here(spec, self._around.store.url, begun=bool(job.checkpoints)):
            self._leave(job.id, f"{LEFT}{lacking}", AGAIN_SECONDS)
            return True  # what is left is looked at once more, this job among it
        try:
            with self._stop.interrupting():
                import_keras()  # where it fails no job has been touched
        except PreemptedError:
            return True
        self._say_once("cards", self._me.unused())
        kills = oom_kills()
        why = ""
        if verdict.owner_alive is False and was_killed_for_memory(job.owner, kills):
            why = "taken over from a worker that the kernel killed for lack of memory"
        try:
            lease = self._queue.claim(job, self._me.claimant(kills), judged=verdict, why=why)
        except ConflictError as error:
            logger.info("%s", error)
            now = self._survey.taken(job.id)
            if now is not None and now.state is State.HELD:
                self._note_held(now)
            return now is not None and now.state is State.QUEUED  # to be had, as it is now
        except (DamagedRecordError, LinkedError) as error:
            return self._pass_over(job, error)
        self._reporter.started(lease.job)
        why = why or (job.reason if job.nonce == DAMAGED else "")
        if why:
            self._reporter.note(f"{job.id}: {why}")
        self._run(lease, spec)
        return True

    def _run(self, lease: Lease, spec: Json) -> None:
        job_id = lease.job.id
        attempt = RunningAttempt(lease, spec, self._around)
        self._stop.idle = False
        try:
            attempt.run()
        except StoreRefusedError:
            raise
        except StoreError as error:
            if not self._patient:
                raise
            self._release_when_back(lease, error)
        finally:
            self._stop.idle = True
        after = self._survey.again(job_id)
        if attempt.lost and (after is None or after.state is not State.CANCELLED):
            self._reporter.note(attempt.lost)
        if after is not None:
            self._reporter.ended(after)
        before = self._later.pop(job_id, None)
        if attempt.left and after is not None:
            self._said.add(f"{job_id} {after.nonce}")
            seconds = min(MOST_AGAIN, 2 * before.seconds) if before else AGAIN_SECONDS
            self._leave(job_id, attempt.left, seconds)

    def _leave(self, job_id: str, why: str, seconds: float) -> None:
        self._later[job_id] = _Later(why, boot_clock() + seconds, seconds)

    def _pass_over(self, job: Job, error: StoreError) -> bool:
        """Leave a job whose records can't be read, for some time; others go before it."""
        if isinstance(error, StoreRefusedError) and not isinstance(error, LinkedError):
            raise error  # credentials, say: it is so for all jobs
        self._cannot_read(job.id, error)
        self._leave(job.id, str(error), AGAIN_SECONDS)
        return False

    def _release_when_back(self, lease: Lease, error: StoreError) -> None:
        """Give a job back when its bucket is back: nobody has to wait for its lease to lapse."""
        reason = f"the bucket was away: {error}"
        lapsed_at = boot_clock() + 2 * self._queue.lease_seconds  # it is free by then, all the same
        while self._stop.reason is None and not self.session_over and boot_clock() < lapsed_at:
            try:
                with suppress(LeaseLostError):
                    lease.release(reason)
                return
            except StoreRefusedError:
                raise
            except StoreError as again:
                self._say_away(again)  # and waits a little

    def _say_away(self, error: StoreError) -> None:
        self._reporter.note(f"the bucket is away, waiting for it: {error}")
        self._nap(self._queue.lease_seconds / BEATS_PER_LEASE)


def _no(why: str) -> Availability:
    return Availability(claimable=False, why=why)
