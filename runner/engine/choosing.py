"""Which jobs a worker may take now, the best first, and why it leaves the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runner.engine.identity import Identity
from runner.engine.session import NOT_BEGUN, Session
from runner.errors import ConflictError, OneObjectError, StoreError, StoreRefusedError
from runner.queue import job as jobs
from runner.queue.job import Job, State
from runner.queue.presence import LEFT
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.queue.survey import Survey
from runner.store.steps import boot_clock

AGAIN_SECONDS = 60.0  #: until a job that can't be run here is looked at again
MOST_AGAIN = 3600.0  #: seconds; each time that it was begun in vain it waits twice as long
#: records by which a user brings a job forward
BY_USER = ("retry", "unhold", "evaluate", "priority")
#: a heartbeat younger than this share of the lease is a living worker's
FRESH_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A job that is left to others, or for later, and why."""

    job: Job
    availability: Availability


class Postponed:
    """Jobs that this worker does not take before some time has passed, and why."""

    def __init__(self) -> None:
        # why, until when, seconds in all, the job's record
        self._jobs: dict[str, tuple[str, float, float, str]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def add(self, job: Job, why: str, *, begun: bool = False) -> None:
        """Postpone a job; twice as long as the last time if it was begun in vain."""
        seconds = AGAIN_SECONDS
        if begun and job.id in self._jobs:
            seconds = min(MOST_AGAIN, 2 * self._jobs[job.id][2])
        self._jobs[job.id] = why, boot_clock() + seconds, seconds, job.nonce

    def forget(self, job_id: str) -> None:
        """Postpone a job no more."""
        self._jobs.pop(job_id, None)

    def why(self, job: Job) -> str:
        """Return why a job is not taken now; "" if it may be."""
        why = self.last(job)
        return why if why and boot_clock() < self._jobs[job.id][1] else ""

    def last(self, job: Job) -> str:
        """Return why a job was postponed, be it to be looked at again or not.

        "" if it was not, or if its user has queued it since.
        """
        why, _, _, record = self._jobs.get(job.id, ("", 0.0, 0.0, ""))
        if job.kind in BY_USER and job.nonce != record:
            self.forget(job.id)
            return ""
        return why


class Choice:
    """What a worker may take.

    Args:
        queue: of the jobs.
        me: the worker.
        session: until when it works; None: for ever.
        note: gets lines for people.
    """

    def __init__(
        self, queue: Queue, me: Identity, session: Session | None, note: Callable[[str], None]
    ) -> None:
        self._queue = queue
        self._me = me
        self._session = session
        self._note = note
        self.survey = Survey(queue, self._cannot_read)
        self.postponed = Postponed()
        self.left: list[Owned] = []  #: passed over in the last look, in order
        self.unreadable: set[str] = set()  #: jobs whose records can't be read, the last time
        self.held: list[str] = []  #: jobs that were held, since they could not be continued
        self.pressed = False  #: a job was left because the session is too short for it

    @property
    def left_to_others(self) -> dict[str, str]:
        """Jobs that are left because of this machine, and why, looked at this time or not yet."""
        found = {other.job.id: other.availability.why for other in self.left}
        for job in self.survey.waiting:
            lacking = self._me.lacks(job.requirements)
            why = self.postponed.last(job) or (lacking and f"{LEFT}{lacking}")
            found.setdefault(job.id, why)
        return {name: why for name, why in found.items() if why.startswith((LEFT, NOT_BEGUN))}

    def candidates(self, ids: Sequence[str] | None) -> Iterator[tuple[Job, Availability]]:
        """Yield the jobs that may be claimed, of these or all; the others are `left`."""
        self.left = []
        names = [job.id for job in self.survey.jobs(ids)]
        # the bucket may have been away for a moment: what is read now is readable
        self.unreadable -= {name for name in names if name not in self.postponed}
        for name in names:
            job = self.survey.job(name)  # as it is known now: others take jobs meanwhile
            if job is None or not self._is_open(job):
                continue
            verdict = self._verdict(job)
            if verdict.claimable:
                yield job, verdict
            elif name not in self.unreadable:
                self.left.append(Owned(job=job, availability=verdict))

    def pass_over(self, job: Job, error: StoreError) -> None:
        """Leave a job whose records can't be read, for some time; others go before it."""
        if isinstance(error, StoreRefusedError) and not isinstance(error, OneObjectError):
            raise error  # credentials, say: it is so for all jobs
        self._cannot_read(job.id, error)
        self.postponed.add(job, str(error))

    def note_held(self, job: Job) -> None:
        """Report a job that was held instead of taken."""
        self.held.append(job.id)
        self._note(f"{job.id}: held: {job.reason}")

    def _cannot_read(self, job_id: str, error: StoreError) -> None:
        if job_id not in self.unreadable:
            self.unreadable.add(job_id)
            self._note(f"{job_id}: cannot be read: {error}")

    # ------------------------------------------------------------------ one job

    def _verdict(self, job: Job) -> Availability:
        """Whether this worker may take a job now."""
        waits = self._waits_for(job) if job.state is State.QUEUED else ""
        if waits:
            return _no(f"it waits for {waits}")
        verdict = self._queue.availability(job)
        if not verdict.claimable:
            return verdict
        why = self.postponed.why(job) or self._unfit(job)
        return _no(why) if why else verdict

    def _unfit(self, job: Job) -> str:
        """Why a job does not fit this machine, or into this session."""
        lacking = self._me.lacks(job.requirements)
        if lacking:
            return f"{LEFT}{lacking}"
        short = self._session.too_short_for(job) if self._session is not None else ""
        self.pressed = self.pressed or bool(short)
        return short

    def _waits_for(self, job: Job) -> str:
        """Name the jobs that this one waits for."""
        waits = []
        for name in job.after:
            other = self.survey.job(name)
            if other is None:
                waits.append(f"{name}, which is not there")
            elif other.state is not State.SUCCEEDED:
                waits.append(f"{name} ({other.state})")
        return ", ".join(waits)

    def _is_open(self, job: Job) -> bool:
        """Whether a job may be worked on; one that waits in vain or is over budget is held."""
        if job.state is not State.QUEUED:
            return job.state is State.RUNNING
        reason = self._waits_in_vain(job) or jobs.over_budget(job)
        if not reason:
            return True
        try:
            self.note_held(self._queue.hold_queued(job, reason))
        except ConflictError:
            pass  # someone else did something about it
        finally:
            self.survey.again(job.id)
        return False

    def _waits_in_vain(self, job: Job) -> str:
        for name in job.after:
            other = self.survey.job(name)
            if other is not None and other.state in (State.FAILED, State.CANCELLED):
                return (
                    f"it is to come after {name}, which is {other.state}; 'runner retry {name}', "
                    f"then 'runner unhold {job.id}'"
                )
        return ""


class Others:
    """Whether waiting for a job that is left may make it ours."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._signs: dict[str, tuple[int, int]] = {}  # tokens and heartbeats, as first seen

    def may_leave(self, left: Owned) -> bool:
        """Whether it may come: a retry, or a worker that may be dead."""
        if left.job.state is State.RUNNING and left.availability.seen_seconds is not None:
            return not self._lives(left)
        return left.availability.expires_in is not None

    def _lives(self, left: Owned) -> bool:
        """Whether the other worker surely lives, so that there is nothing to wait for.

        Its process is seen on this machine, or it has sent a heartbeat since we first looked.
        """
        seen = left.availability.seen_seconds
        fresh = seen is not None and seen < FRESH_SHARE * self._queue.lease_seconds
        if left.availability.owner_alive and fresh:
            return True
        beat = self._queue.heartbeat(left.job)
        sign = (left.job.token, beat.sequence if beat else 0)
        return self._signs.setdefault(left.job.id, sign) != sign


def _no(why: str) -> Availability:
    return Availability(claimable=False, why=why)
