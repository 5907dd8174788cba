"""What the machines' time became, by causes, in records; Google's own package is the judge."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.commit import Commit
from runner.errors import SpecError, StoreError
from runner.queue import goodput
from runner.queue.goodput import Spent
from runner.queue.job import Job
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.queue.view import View, describe
from tests.referee import Referee
from tests.store.memory import MemoryStore

DEAD = Availability(claimable=True, why="it is dead")


class Timeline:
    """A job whose time passes as it is told to; a referee, if there is one, is told the same."""

    def __init__(self, referee: Referee | None = None) -> None:
        self.now = 1_790_000_000.0
        self.store = MemoryStore()
        self.queue = Queue(
            self.store,
            clock=lambda: self.now,
            now=lambda: datetime.fromtimestamp(self.now, UTC),
        )
        self.queue.submit("cats", {"seed": 1})
        self.referee = referee
        self.step = 0

    @property
    def job(self) -> Job:
        return self.queue.job("cats")

    def passes(self, seconds: float, cause: str = "") -> None:
        if cause:
            self.lease.spent.on(cause)
        self.now += seconds

    def claim(self, prepared: float = 0.0) -> None:
        """Take the job over, from a dead worker if need be, import and build."""
        owner = {"host": "here"}
        self.lease = self.queue.claim(self.job, owner, judged=DEAD, prepared=prepared)
        self.step = self.lease.job.step
        if self.referee:
            self.referee.job_starts(self.now)
        self.passes(12)
        self.passes(3, "restore")
        self.passes(20.5, "build")

    def train(self, until: int, *, first: float = 9.0, every: int = 10) -> None:
        """Make steps of two seconds; the first of an attempt takes longer; 0: it was made."""
        self.lease.spent.on(goodput.FIRST if first else "steps")
        seconds = first or 2.0
        while self.step < until:
            self._tell()
            self.passes(seconds)
            self.lease.spent.on("steps")
            seconds, self.step = 2.0, self.step + 1
            if self.step % every == 0:
                self.save()

    def _tell(self) -> None:
        if self.referee:
            self.referee.step_starts(self.step, self.now)

    def save(self) -> None:
        with self.lease.spent.during("save"):
            begin, reading = self.now, self.lease.spent.reading()
            self.passes(0.25)
            self.lease.commit(Commit(step=self.step, epoch=0, time=reading))
        if self.referee:
            self.referee.saved(begin, self.now)

    def dies(self) -> None:
        """In the midst of the next step, right after a heartbeat."""
        self._tell()
        self.lease.renew(step=self.step)

    def time(self) -> dict[str, float]:
        return dict(View(job=self.job).time or {})


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture(params=["nobody waits", "the job waits in the queue"])
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Timeline, float]:
    return Timeline(Referee(tmp_path)), 0.0 if request.param == "nobody waits" else 400.0


def test_the_figure_is_that_of_googles_package(judged: tuple[Timeline, float]) -> None:
    """Killed at step 27, released at 60 with a long pause, killed at 83: to 0.1 % the same.

    Google divides by the time from the first start to the end, so waiting in the queue, which is
    not paid, counts there: where nobody waits both are one figure.
    """
    timeline, wait = judged
    referee = timeline.referee
    assert referee
    timeline.claim()
    timeline.train(27)
    timeline.dies()
    timeline.passes(wait)
    timeline.claim()
    timeline.train(60, first=31)
    timeline.dies()
    timeline.lease.release("SIGTERM")
    timeline.passes(wait)
    timeline.claim()
    timeline.train(83)
    timeline.dies()
    timeline.passes(wait)
    timeline.claim()
    timeline.train(99)
    timeline.lease.commit(Commit(step=99, epoch=0, time=timeline.lease.spent.reading()))
    timeline.lease.finish(final={"step": 99}, evaluate=False)
    referee.job_ends(timeline.now)
    time = timeline.time()
    theirs, mine = referee.goodput(), goodput.goodput(time)
    assert mine is not None
    elapsed = goodput.training_seconds(time) + time.get("queue", 0.0)
    assert time["steps"] / elapsed == pytest.approx(theirs, rel=0.001)
    assert time["steps"] == pytest.approx(referee.productive_seconds(), rel=0.001)
    assert time.get("queue", 0.0) == pytest.approx(3 * wait)
    if not wait:
        assert mine == pytest.approx(theirs, rel=0.001)
    saves = 0.25 * sum(1 for entry in referee.entries if "custom_badput_event_end_time" in entry)
    assert time["save"] == pytest.approx(saves)
    # what is done in vain: steps 20 to 26 and 80 to 82
    assert time["repeated"] == pytest.approx(2 * (7 + 3))
    assert referee.badput("WASTED_PROGRESS_FROM_DISRUPTION") == pytest.approx(
        2 * (7 + 3), rel=0.001
    )


def test_the_parts_are_all_of_the_time(timeline: Timeline) -> None:
    """From the first claim to the end, whatever comes between."""
    began = timeline.now
    timeline.claim()
    timeline.train(15)
    timeline.dies()
    timeline.passes(77)
    timeline.claim()
    timeline.train(20)
    timeline.passes(8, "bucket")
    timeline.lease.release("SIGTERM")
    timeline.passes(5)
    timeline.claim()
    timeline.train(30)
    job = timeline.lease.finish(final={"step": 30})
    assert sum((job.time or {}).values()) == pytest.approx(timeline.now - began)
    assert job.time == {
        "steps": 2 * 30, "repeated": 10, "start": 36, "restore": 9, "build": 61.5 + 3 * 7,
        "save": 0.75, "bucket": 8, "queue": 82,
    }  # fmt: skip
    timeline.passes(1000)  # until somebody evaluates: nothing was lost
    lease = timeline.queue.claim(timeline.job, {"host": "here"})
    timeline.passes(45)
    job = lease.finish(evaluation={"top_1": 1.0})
    assert (job.time or {})["evaluation"] == 45
    assert (job.time or {})["queue"] == 82
    share = goodput.goodput(job.time)
    assert share == pytest.approx(60 / (60 + 10 + 36 + 9 + 82.5 + 0.75 + 8), abs=1e-6)


def test_imports_before_the_claim_are_no_waiting(timeline: Timeline) -> None:
    """A worker imports Keras before it claims its first job: its machine is paid meanwhile."""
    timeline.claim(prepared=11)
    timeline.lease.release("SIGTERM")
    assert timeline.job.time == {"start": 12 + 11, "restore": 3, "build": 20.5}
    timeline.passes(100)
    timeline.claim(prepared=30)
    time = dict(timeline.lease.release("SIGTERM").time or {})
    assert (time["start"], time["queue"]) == (23 + 12 + 30, 70)


def test_steps_that_a_release_could_not_save_are_repeated(timeline: Timeline) -> None:
    timeline.claim()
    timeline.train(24)
    timeline.dies()
    job = timeline.lease.release("no time left")
    assert ((job.time or {})["steps"], (job.time or {})["repeated"]) == (40, 8)


def test_steps_that_are_made_while_a_checkpoint_is_written_are_not_in_it(
    timeline: Timeline,
) -> None:
    """A slow bucket: the commit comes ten steps after its state was taken, then a death."""
    timeline.claim()
    timeline.train(20, every=1000)
    reading = timeline.lease.spent.reading()
    timeline.train(30, first=0, every=1000)
    timeline.lease.commit(Commit(step=20, epoch=0, time=reading))
    timeline.dies()
    time = timeline.queue.claim(timeline.job, {"host": "there"}, judged=DEAD).job.time or {}
    assert (time["steps"], time["repeated"]) == (40, 20)


def test_status_tells_what_a_worker_told_last(timeline: Timeline) -> None:
    """While it lives its steps count, saved or not; once it is lost, those that were saved."""
    timeline.claim()
    timeline.train(24)
    timeline.lease.renew(step=24)
    job, beat = timeline.job, timeline.queue.heartbeat(timeline.job)
    lives = Availability(claimable=False, why="")
    running = describe(timeline.store, View(job=job, availability=lives, beat=beat))
    lost = describe(timeline.store, View(job=job, availability=DEAD, beat=beat))
    assert running["time"] == {
        "start": 12, "restore": 3, "build": 27.5, "steps": 48, "save": 0.5
    }  # fmt: skip
    assert lost["time"] == {**running["time"], "steps": 40, "repeated": 8}
    assert running["goodput"] == pytest.approx(48 / 91, abs=1e-6)
    assert lost["goodput"] == pytest.approx(40 / 91, abs=1e-6)


def test_time_of_an_earlier_version_is_not_known(timeline: Timeline) -> None:
    """Its records have none: they read as before, and what was worked then is in no goodput."""
    timeline.claim()
    timeline.train(20)
    old = describe(timeline.store, View(job=Job(**{**vars(timeline.job), "time": None})))
    assert (old["time"], old["goodput"], old["cost"]) == (None, None, None)
    before = Job(**{**vars(timeline.job), "time": None, "worked_seconds": 120.0})
    time = goodput.taken_over(before, None, before.updated_at)
    assert time == {"unknown": 120.0}
    assert goodput.goodput(time) is None
    assert goodput.goodput({"unknown": 120.0, "steps": 9.0, "start": 1.0}) == 0.9


def test_a_takeover_does_without_the_last_heartbeat(timeline: Timeline) -> None:
    """It is for people: a bucket that can't give it holds up no claim."""
    timeline.claim()
    timeline.train(24)
    timeline.lease.renew(step=24)

    def away(number: int, operation: str, key: str) -> None:
        if "/lease/" in key:
            raise StoreError("no route to the bucket")

    timeline.store.hook = away
    job = timeline.queue.claim(timeline.job, {"host": "there"}, judged=DEAD).job
    assert (job.token, (job.time or {})["steps"]) == (2, 40)


def test_a_stopwatch_is_always_at_one_cause() -> None:
    now = 0.0
    spent = Spent("start", clock=lambda: now)
    now = 1.0
    with spent.during("save"):
        now = 3.0
        with spent.during("bucket"):
            now = 7.0
        now = 8.0
    now = 16.0
    assert spent.reading() == {"start": 9.0, "save": 3.0, "bucket": 4.0}


@pytest.mark.parametrize(
    ("price", "labels", "paid"),
    [("2", [], 2.0), ("a100=4, 2", ["lab", "a100"], 4.0), ("a100=4,2", ["lab"], 2.0)],
)
def test_money_of_an_hour(
    price: str, labels: list[str], paid: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it became steps; waiting is not paid."""
    monkeypatch.setenv("RUNNER_PRICE_PER_HOUR", price)
    queue = Queue(MemoryStore())
    job = queue.submit("cats", {"seed": 1, "requirements": {"labels": labels}})
    time = {"steps": 1800.0, "build": 1800.0, "queue": 5000.0}
    assert goodput.cost(job, time) == {"paid": paid, "lost": paid / 2}


def test_prices_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Queue(MemoryStore()).submit("cats", {"seed": 1})
    monkeypatch.setenv("RUNNER_PRICE_PER_HOUR", "a100=4")
    assert goodput.cost(job, {"steps": 1.0}) is None, "no price for it"
    for price in ("two", "-1", "a100=", "nan"):
        monkeypatch.setenv("RUNNER_PRICE_PER_HOUR", price)
        with pytest.raises(SpecError, match=f"RUNNER_PRICE_PER_HOUR received '{price}'"):
            goodput.cost(job, {"steps": 1.0})


def test_a_first_step_that_was_kept_alone_is_building() -> None:
    """What it took beyond a usual step is not known yet; the death that follows adds nothing."""
    reading = {"start": 8.0, "build": 33.0, goodput.FIRST: 6.7}
    kept = goodput.split(reading, 1)
    told = goodput.split({**reading, "steps": 3.0}, 31)
    after = goodput.closed(kept, told)
    assert goodput.machine_seconds(after) == pytest.approx(goodput.machine_seconds(told))
    assert after.get("steps", 0.0) == 0.0
    assert after["repeated"] == pytest.approx(3.1)
