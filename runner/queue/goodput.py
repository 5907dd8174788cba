"""What the time of a job's machines became: seconds by cause, added up over all its attempts.

An attempt's time is measured by a stopwatch that is always at one cause, so the causes add up to
all of it. Commits, ends and heartbeats carry the sum; whoever takes a job over from a dead worker
adds what its last heartbeat told: steps that no commit has kept are `repeated`.

The definitions are those of Google's ml-goodput-measurement (its `goodput.py`): a step lasts until
the next one begins, so its data, callbacks and validation are part of it, but not the time that it
waits for a checkpoint. What an attempt's first step takes longer than the mean of its others is
building.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from runner.errors import SpecError
from runner.queue.record import Job, Json, Stage, State

if TYPE_CHECKING:
    from runner.queue.protocol import Heartbeat

Seconds = Mapping[str, float]  #: by cause

#: what people are told of each cause
CAUSES = {
    "steps": "steps",
    "repeated": "repeated steps",
    "start": "start and imports",
    "build": "building and first step",
    "restore": "restore",
    "save": "saving",
    "bucket": "waiting for a bucket",
    "evaluation": "evaluation",
    "unknown": "not known",
    "queue": "waiting in the queue",
}
SHOWN = 0.5  #: seconds: less of a cause is not worth a word
FIRST = "first"  #: a stopwatch's cause: the first step, which `split` divides
PRICE = "RUNNER_PRICE_PER_HOUR"


class Spent:
    """A stopwatch of one attempt that is always at one cause; safe to use from several threads."""

    def __init__(self, cause: str = "start", clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._cause, self._since = cause, clock()
        self._lock = Lock()

    def on(self, cause: str) -> str:
        """Count the time from now on for this cause; return the one before."""
        with self._lock:
            before = self._cause
            self._count()
            self._cause = cause
        return before

    def add(self, cause: str, seconds: float) -> None:
        """Count what was spent before the stopwatch began."""
        with self._lock:
            self._seconds[cause] = self._seconds.get(cause, 0.0) + seconds

    def _count(self) -> None:
        now = self._clock()
        self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def during(self, cause: str) -> Iterator[None]:
        """Count the time of a block for this cause."""
        before = self.on(cause)
        try:
            yield
        finally:
            self.on(before)

    def reading(self) -> dict[str, float]:
        """Return the seconds so far, by cause."""
        with self._lock:
            self._count()
            return _rounded(self._seconds)


def _rounded(seconds: Seconds) -> dict[str, float]:
    return {cause: round(value, 3) for cause, value in seconds.items() if value >= 0.0005}


def added(one: Seconds, other: Seconds) -> dict[str, float]:
    """Return the sum, cause by cause."""
    return _rounded({name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}})


def since(total: Seconds, before: Seconds) -> dict[str, float]:
    """Return what has been added to `before`."""
    return _rounded({name: value - before.get(name, 0) for name, value in total.items()})


def split(reading: Seconds, steps: int) -> dict[str, float]:
    """Return a stopwatch's reading with its first step divided: a usual step, and building.

    `steps`: of the attempt, the first one included. What is usual is not known of one step alone:
    it is all building then, so that an attempt that dies early does not look like a good one.
    """
    found = dict(reading)
    first = found.pop(FIRST, 0.0)
    usual = min(first, found.get("steps", 0.0) / (steps - 1)) if steps > 1 else 0.0
    return added(found, {"steps": usual, "build": first - usual})


def newest(one: Seconds, other: Seconds) -> dict[str, float]:
    """Return the later of two readings, which has more of all: a heartbeat may be the older."""
    return _rounded(max(one, other, key=lambda reading: sum(reading.values())))


def closed(kept: Seconds, total: Seconds) -> dict[str, float]:
    """Return the time of attempts that are over; steps that no commit keeps are to be repeated."""
    steps = kept.get("steps", 0.0)
    lost = max(0.0, total.get("steps", 0.0) - steps)
    return added({**newest(kept, total), "steps": steps}, {"repeated": lost})


def taken_over(job: Job, beat: "Heartbeat | None", now: datetime) -> dict[str, float] | None:
    """Return a job's time when it is claimed: with what a dead worker lost, and the wait.

    The wait is the difference of two machines' clocks. None: nothing is known yet.
    """
    known = job.time
    if known is None:  # a version without it has worked on the job
        known = {"unknown": job.worked_seconds} if job.worked_seconds else {}
    last = job.updated_at
    if job.state is State.RUNNING and beat is not None:
        known = closed(known, beat.time)
        last = max(last, beat.sent_at or last)
    waited = max(0.0, (now - last).total_seconds()) if job.tries else 0.0
    return added(known, {"queue": waited}) or None


def until_now(job: Job, beat: "Heartbeat | None", *, lost: bool = False) -> Json | None:
    """Return a job's time as its worker told it last; of one that is lost what is kept of it."""
    if job.state is not State.RUNNING or beat is None or not beat.time:
        return job.time
    return (closed if lost else newest)(job.time or {}, beat.time)


def first_cause(job: Job) -> str:
    """Return what an attempt begins with."""
    return "evaluation" if job.stage is Stage.EVALUATE else "start"


def machine_seconds(spent: Seconds) -> float:
    """Return the seconds that a machine was in use: all but the waiting in the queue."""
    return sum(spent.values()) - spent.get("queue", 0.0)


def training_seconds(spent: Seconds) -> float:
    """Return the seconds that a machine was in use for the training, as far as they are known."""
    others = spent.get("evaluation", 0.0) + spent.get("unknown", 0.0)
    return max(0.0, machine_seconds(spent) - others)


def goodput(spent: Seconds | None) -> float | None:
    """Return the share of the training's machine time that became kept steps; None: not known."""
    training = training_seconds(spent or {})
    return round((spent or {}).get("steps", 0.0) / training, 6) if training else None


def cost(job: Job, spent: Seconds | None) -> dict[str, float] | None:
    """Return what a job's machines cost, and what of it became nothing that was kept.

    Raises:
        SpecError: the variable of the environment has no prices.
    """
    price = _price(job, os.environ.get(PRICE, ""))
    if price is None or spent is None:
        return None
    wanted = sum(spent.get(cause, 0.0) for cause in ("steps", "evaluation", "unknown"))
    paid = machine_seconds(spent) * price / 3600
    return {"paid": round(paid, 4), "lost": round(max(0.0, paid - wanted * price / 3600), 4)}


def _price(job: Job, text: str) -> float | None:
    """Return what an hour costs of a machine as the job requires it, or any; None: not known."""
    prices: dict[str, float] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        label, _, amount = part.rpartition("=")
        try:
            prices[label] = float(amount)
        except ValueError:
            prices[label] = -1.0
    if any(not 0 <= price < 1e6 for price in prices.values()):
        raise SpecError(
            f"{PRICE} received {text!r}. Give what a machine costs an hour, such as 2.5, or a "
            "price for each label that jobs require: a100=2.5,t4=0.35"
        )
    labels: list[Any] = (job.requirements or {}).get("labels") or []
    return next((prices[label] for label in labels if label in prices), prices.get(""))
