"""A message when a job succeeds, fails, is held or lost: sent by one of all workers.

A record of the job's log is what happened; of a job that is lost, its claim. Below
`jobs/<id>/notified/` a worker creates `<what happened>-claim-1.json`, sends, and writes
`<what happened>-sent.json`. Of all workers one creates the claim. One that could not send deletes
its claim, and any worker tries again. One that died in between leaves it: another takes over with
the next number, but only the end of a job, since nobody knows whether the message has left.

All of it happens in a thread, at the end of an attempt and once a minute, while the worker trains
too: so the loss of a job is told by workers that are too busy to take it over.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from queue import Empty, SimpleQueue
from secrets import token_hex
from threading import Thread

from runner.engine.messages import LOST, VARIABLE, Service, message, open_services, send
from runner.errors import DamagedRecordError, SpecError, StoreError
from runner.queue.drain import file_of, name_of
from runner.queue.job import ENDED, Job, State
from runner.queue.owner import this_process
from runner.queue.protocol import base, beat_key
from runner.queue.queue import Queue, utc_now
from runner.queue.survey import Survey
from runner.queue.texts import duration
from runner.queue.view import worker_of
from runner.store.base import Created
from runner.store.log import DAMAGED, encode, parse, slot
from runner.store.settings import mask
from runner.store.steps import boot_clock

LOST_VARIABLE = "RUNNER_NOTIFY_LOST"  #: how long a lease is over before the job is told as lost
SINCE = "workers/notify.json"  #: when the first worker with messages began: before that, none
LOOK_SECONDS = 60.0  #: between two looks at the queue
CLAIM_SECONDS = 600.0  #: after which whoever claimed a message and is silent counts as dead
MOST_PAUSE = 3600.0  #: seconds between two tries; the first is LOOK_SECONDS, each twice the last
LOST_SECONDS = 1800.0  #: that a lease is over before the job is told as lost
MOST_AGE = timedelta(days=7)  #: what nobody could tell for so long is told no more
#: records of workers: what a user changes by a command, the user knows
_BY_WORKERS = ("finish", "fail", "hold", "quarantine")
_TOLD = (State.SUCCEEDED, State.FAILED, State.HELD)


def what_happened(job: Job) -> str:
    """Return what the newest record of a job tells people: succeeded, failed, held; or ""."""
    told = job.state in _TOLD and job.kind in _BY_WORKERS and job.nonce != DAMAGED
    return job.state.value if told else ""


@dataclass(eq=False)
class _Pending:
    """A message that is not known to be sent."""

    job: Job
    what: str
    key: str  #: its markers begin with it
    why: str = ""
    not_before: float = 0.0  #: by this machine's clock since its start
    pause: float = field(default_factory=lambda: LOOK_SECONDS)  #: before the next try
    taken: bool = False  #: by a service


class Notifier:
    """Sends the messages of a queue in a thread, until it is closed.

    Args:
        queue: of the jobs.
        urls: of services, see `open_services`.
        note: gets lines for people; called in the thread.
        lost_seconds: that a lease is over before the job is told as lost.
    """

    def __init__(
        self,
        queue: Queue,
        urls: str,
        note: Callable[[str], None],
        *,
        lost_seconds: float = LOST_SECONDS,
    ) -> None:
        self._queue = queue
        self._store = queue.store
        self._urls = urls
        self._note = note
        self._lost_seconds = lost_seconds
        self._me = name_of(this_process())
        self._began = utc_now()
        self._first: datetime | None = None  # when the first worker with messages began
        self._services: list[Service] = []
        self._survey = Survey(queue, lambda *_, **__: None)  # the worker reports what it is
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()  # None: it is to end
        self._pending: dict[str, _Pending] = {}  # by key
        self._settled: set[str] = set()  # keys of messages that need nothing more
        self._thread = Thread(target=self.run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin, in a thread. What happens from now on is told, if this process dies too."""
        with suppress(StoreError):
            self._since()
        self._thread.start()

    def saw(self, job: Job) -> None:
        """Take what may have happened to a job, from any thread; returns at once."""
        self._inbox.put(job)

    def close(self, seconds: float) -> None:
        """End, once all that happened was tried to be told, or after so long."""
        self._inbox.put(None)
        self._thread.join(max(0.0, seconds))

    def run(self) -> None:
        """Send messages until it is to end: what the thread does."""
        try:
            self._services, wrong = open_services(self._urls)
        except SpecError as error:
            wrong = [str(error)]
        for why in wrong:
            self._note(f"{VARIABLE}: {why}")
        next_look, closing = 0.0, not self._services
        while not closing:
            try:
                job = self._inbox.get(timeout=max(0.0, next_look - boot_clock()))
                closing = job is None
                if job is not None and (what := what_happened(job)):
                    self._add(job, what, _name(job))
            except Empty:
                pass
            try:
                if boot_clock() >= next_look:
                    next_look = boot_clock() + LOOK_SECONDS
                    self._look()
                self._tell_all()
            except StoreError:
                continue  # the bucket is away, as its own lines say: the next look tries again
            except Exception as error:  # noqa: BLE001 - the thread must outlive it
                self._note(mask(f"messages: {type(error).__name__}: {error}"))

    # ------------------------------------------------------------------ what happened

    def _look(self) -> None:
        """Find what happened and is not known to be told."""
        since = max(self._since(), utc_now() - MOST_AGE)
        lost = set[str]()
        for job in self._survey.jobs():
            what = what_happened(job)
            if what and job.updated_at >= since:
                self._add(job, what, _name(job))
            elif job.state is State.RUNNING and (why := self._is_lost(job, since)):
                lost.add(self._add(job, LOST, f"lost-{job.token:06d}", why))
        for key, pending in [*self._pending.items()]:
            if pending.what == LOST and key not in lost:
                del self._pending[key]  # it was taken over, or its worker thawed

    def _since(self) -> datetime:
        """Return when the first worker with messages began in this store."""
        if self._first is None:
            data = self._store.read(SINCE, max_bytes=1000)
            if data is None:
                self._store.create(SINCE, encode({"since": self._began.isoformat()}))
                data = self._store.read(SINCE, max_bytes=1000) or b""
            try:
                self._first = datetime.fromisoformat(parse(data, SINCE)["since"]).astimezone(UTC)
            except (DamagedRecordError, KeyError, TypeError, ValueError, OverflowError):
                self._first = self._began
        return self._first

    def _is_lost(self, job: Job, since: datetime) -> str:
        """Say for how long a worker is silent, if that is too long and not longer ago; else ""."""
        verdict = self._queue.availability(job)
        silent = verdict.seen_seconds
        for key in (beat_key(job.id, job.token), slot(base(job.id), job.number)):
            if verdict.claimable and silent is None:  # its process is gone: nobody asked since when
                silent = self._store.age(key)
        if not verdict.claimable or (silent or 0.0) < job.lease_seconds + self._lost_seconds:
            return ""
        told = utc_now() - timedelta(seconds=silent or 0.0) >= since
        why = f"its worker {worker_of(job)} gave no sign of life for {duration(silent)}"
        return f"{why}, and no other has taken it over" if told else ""

    def _add(self, job: Job, what: str, name: str, why: str = "") -> str:
        key = f"{base(job.id)}/notified/{name}"
        if key not in self._settled:
            self._pending.setdefault(key, _Pending(job, what, key, why))
        return key

    # ------------------------------------------------------------------ who tells it

    def _tell_all(self) -> None:
        now = boot_clock()
        due = [one for one in self._pending.values() if now >= one.not_before]
        found = self._store.read_many([_sent(one) for one in due]) if due else []
        for one, sent in zip(due, found, strict=True):
            if isinstance(sent, StoreError):
                raise sent
            if sent is not None or self._tell(one):
                self._settled.add(one.key)
                del self._pending[one.key]

    def _tell(self, one: _Pending) -> bool:
        """Tell it, if this worker is to; whether nothing is left to do about it."""
        if not self._is_there(one.job):
            return True
        if not one.taken:
            claim, over = self._claim(one)
            if not claim:
                return over
            if not self._send(one):
                one.not_before = boot_clock() + one.pause
                one.pause = min(MOST_PAUSE, 2 * one.pause)
                self._store.delete(claim)
                return False
            one.taken = True
        if self._is_there(one.job):
            self._store.put(_sent(one), encode({"worker": self._me}))
        return True

    def _is_there(self, job: Job) -> bool:
        """Whether a job was not removed: no marker is to lie there alone."""
        return self._store.read(slot(base(job.id), job.number)) is not None

    def _claim(self, one: _Pending) -> tuple[str, bool]:
        """Return the key of our claim; where another has it "", and whether that is for good."""
        for number in count(1):
            key = f"{one.key}-claim-{number}.json"
            data = encode({"worker": self._me, "nonce": token_hex(12)})
            if self._store.create(key, data) is Created.YES or self._store.read(key) == data:
                return key, False
            age = self._store.age(key)
            if age is None or age < CLAIM_SECONDS:
                break
            if one.job.state not in ENDED:
                return "", True  # perhaps it was sent, and more than once it must not be
            if self._store.read(_sent(one)) is not None:
                return "", True  # since we looked
        return "", False

    def _send(self, one: _Pending) -> bool:
        """Send it to all services; whether one has taken it."""
        answers = send(self._services, message(one.job, one.what, one.why, self._store.url))
        sent = not all(answers.values())
        again = "another has it" if sent else f"tried again in {duration(one.pause)}"
        for service, why in answers.items():
            how = f"not sent to {service.shown}: {why}; {again}"
            how = how if why else f"sent to {service.shown}"
            self._note(f"{one.job.id}: the message '{one.what}' was {how}")
        return sent


def _name(job: Job) -> str:
    """Name a record, also among those of a later job of this name."""
    return f"{job.number:012d}-{file_of(job.nonce)[:8]}"


def _sent(one: _Pending) -> str:
    return f"{one.key}-sent.json"
