"""Asked to stop, out of time, out of budget, or hanging: how a worker lets go of its job."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.cli.words import position
from runner.commit import Commit
from runner.engine.notices.watcher import watching
from runner.engine.preemption import SIGNALS
from runner.engine.session import Session, container_age, known_limit
from runner.engine.stages import Attempt
from runner.errors import PreemptedError, StoreError
from runner.queue import drain
from runner.queue.job import Job, State
from runner.store.receiving import receiving
from tests.engine.counting import Counting, Shop, raising


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(monkeypatch)


# ---------------------------------------------------------------------- asked to stop


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def short_beats(shop: Shop) -> None:
    shop.queue.lease_seconds = 1.2  # a beat every 0.2 s


def test_a_running_job_is_held_within_a_heartbeat(shop: Shop) -> None:
    """Saved first: nothing of it is lost, and it is neither a failure nor a preemption."""
    short_beats(shop)
    shop.submit("cats")
    shop.submit("dogs")

    def on_step(job: Job, step: int) -> None:
        if job.id == "cats" and step == 3:
            shop.queue.hold("cats")
            running = job.id
            until(lambda: shop.queue.job(running).wish == "hold")
            time.sleep(0.5)

    shop.work(Counting(6, on_step))
    job = shop.queue.job("cats")
    assert (job.state, job.step, job.preemptions, job.failures) == (State.HELD, 3, 0, 0)
    assert job.reason == "held by its user"
    assert shop.queue.job("dogs").state is State.SUCCEEDED
    shop.queue.unhold("cats")
    shop.work(Counting(6))
    assert shop.queue.job("cats").state is State.SUCCEEDED


def test_a_hold_that_is_taken_back_while_it_saves_is_none(shop: Shop) -> None:
    """`unhold` said that it continues."""
    short_beats(shop)
    shop.submit("cats")

    class Slow(Counting):
        def leave_if_asked(self, attempt: Attempt, step: int) -> None:
            if step == 2 and not shop.queue.job("cats").preemptions:
                shop.queue.hold("cats")
                until(lambda: attempt.should_stop() is not None)
                shop.queue.unhold("cats")
                raise PreemptedError("stopped (held by its user); saved at step 2.")

    shop.work(Slow(4))
    job = shop.queue.job("cats")
    assert (job.state, job.preemptions) == (State.SUCCEEDED, 1)


@pytest.fixture
def signals() -> Iterator[None]:
    """What a test's stop request catches, it catches no more afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("verb", ["cancel", "hold", "session"])
def test_what_is_asked_while_a_network_is_built_is_heard_within_a_heartbeat(
    shop: Shop, signals: None, verb: str
) -> None:
    """Importing, building, tracing, downloading: half a minute and more in which no step asks."""
    short_beats(shop)
    shop.submit("cats")
    session = Session.lasting(1000.0, "--max-duration 1000s", clock=lambda: shop.now)
    interrupted: list[str] = []

    def building(attempt: Attempt) -> None:
        shop.stop.install()
        if verb == "session":
            shop.now += 960.0
        else:
            getattr(shop.queue, verb)("cats")
        begun = time.monotonic()
        try:
            with watching(shop.stop, session=session, among=[]):
                time.sleep(30)
        finally:
            if time.monotonic() - begun < 10:
                interrupted.append(attempt.lease.job.id)

    shop.work(building, session=session)
    assert interrupted == ["cats"]
    job = shop.queue.job("cats")
    states = {"cancel": State.CANCELLED, "hold": State.HELD, "session": State.QUEUED}
    assert (job.state, job.failures) == (states[verb], 0)
    assert (shop.stop.reason is not None) == (verb == "session"), "the worker itself goes on"


def test_a_spent_budget_holds_the_job_with_its_state_saved(shop: Shop) -> None:
    """Not failed; released, it has as much again."""
    shop.submit("cats", budget={"hours": 0.5 / 3600, "gpu_hours": None})
    stage = Counting(4, lambda job, step: time.sleep(0.2))
    shop.work(stage)
    job = shop.queue.job("cats")
    assert (job.state, job.failures, job.preemptions) == (State.HELD, 0, 0)
    assert 0 < job.step < 4
    assert "its budget of 0.000138889 hours is spent" in job.reason
    shop.work(stage)
    assert shop.queue.job("cats").number == job.number
    shop.queue.unhold("cats")
    shop.work(stage)
    assert shop.queue.job("cats").state is State.SUCCEEDED


def test_a_job_that_has_spent_its_budget_is_not_begun(shop: Shop) -> None:
    """Whoever stopped it: its start alone would cost more."""
    lease = shop.queue.claim(shop.submit("cats", budget={"hours": 1e-8}), {"host": "there"})
    time.sleep(0.01)
    lease.release("notice")
    stage = Counting()
    shop.work(stage)
    assert stage.ran == []
    assert "hours is spent" in shop.queue.job("cats").reason


@pytest.mark.parametrize("everyone", [True, False])
def test_drained_it_saves_lets_go_and_takes_no_more(shop: Shop, everyone: bool) -> None:
    """Within a heartbeat; a worker that begins afterwards is not meant."""
    short_beats(shop)
    shop.submit("cats")
    shop.submit("dogs")
    drain.request(shop.store)  # before it began

    def on_step(job: Job, step: int) -> None:
        if step == 2:
            drain.request(shop.store, "" if everyone else "here:1")
            until(lambda: shop.stop.reason is not None)

    one = shop.work(Counting(4, on_step), until_empty=False)
    assert one.drained
    job = shop.queue.job("cats")
    assert (job.state, job.step, job.preemptions) == (State.QUEUED, 2, 1)
    assert "asked to drain" in job.reason
    assert shop.queue.job("dogs").number == 0
    shop.work()
    assert all(job.state is State.SUCCEEDED for job in shop.queue.jobs())


def test_others_are_not_drained(shop: Shop) -> None:
    mine, theirs = drain.Drain(shop.store, "here:1"), drain.Drain(shop.store, "here:2")
    drain.request(shop.store, "here:2")
    assert (mine.requested(), theirs.requested()) == (False, True)
    shop.store.put(drain.EVERYONE, b"no JSON")
    assert not mine.requested()


def test_an_idle_worker_waits_for_jobs_until_it_is_drained(shop: Shop) -> None:
    seconds = 0

    def sleep(_: float) -> None:
        nonlocal seconds
        seconds += 1
        shop.now += 1
        time.sleep(0.01)
        shop.queue.lease_seconds = 0.1
        if seconds == 3:
            shop.submit("cats")
        if seconds > 3 and shop.queue.job("cats").state is State.SUCCEEDED:
            drain.request(shop.store)

    assert shop.work(until_empty=False, sleep=sleep).drained
    assert shop.queue.job("cats").state is State.SUCCEEDED


# ---------------------------------------------------------------------- sessions


def test_a_session_ends_with_the_state_saved(shop: Shop) -> None:
    shop.submit("cats")
    session = Session.lasting(1000.0, "--max-duration 1000s", clock=lambda: shop.now)
    assert session.margin_seconds == 50.0

    def on_step(job: Job, step: int) -> None:
        shop.now += 320.0
        session.end_if_over(shop.stop)  # as `watching` does

    one = shop.work(Counting(6, on_step), session=session)
    job = shop.queue.job("cats")
    assert one.session_over
    left = shop.stop.seconds_left
    assert left is not None  # so that the last upload can't outlast the machine
    assert 0 < left <= 40
    assert (job.state, job.step, job.preemptions) == (State.QUEUED, 3, 1)
    assert "--max-duration 1000s" in job.reason


def test_nothing_is_begun_that_could_not_make_a_step(shop: Shop) -> None:
    """By what a start took the last time, or may take."""
    shop.submit("cats")
    shop.work(raising(KeyError("x"), times=1))
    assert shop.queue.job("cats").startup_seconds > 0
    for name, seconds in (("slow", 300.0), ("fast", 1.0)):
        lease = shop.queue.claim(shop.submit(name), {"host": "h"})
        lease.commit(Commit(step=1, epoch=0, checkpoints=[], startup_seconds=seconds))
        lease.release("x")
    shop.submit("new")
    session = Session.lasting(50.0, "--max-duration 50s", clock=lambda: shop.now)
    stage = Counting()
    shop.work(stage, session=session)
    assert stage.ran == ["fast"]
    assert {other.job.id for other in shop.left} == {"slow", "new"}
    assert (
        "slow: not begun: 48 s are left (--max-duration 50s), and 300 s took it the last time"
        in (shop.reporter.text)
    )
    assert "new: not begun: 48 s are left (--max-duration 50s), and 60 s is what a start may" in (
        shop.reporter.text
    )


def test_sessions_of_colab_and_kaggle_are_known(tmp_path: Path) -> None:
    """They end when their container is so old, not so long after the worker began."""
    hours = 3600.0
    assert known_limit({}, 0.0) is None
    colab = known_limit({"COLAB_RELEASE_TAG": "release-colab_20260101"}, 2 * hours)
    assert colab == (10 * hours, "Colab's 12 hours")
    kaggle = {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}
    assert known_limit(kaggle, 11.5 * hours) == (0.5 * hours, "Kaggle's 12 hours")
    assert known_limit(kaggle, 13 * hours) is None  # it has outlived the limit
    assert known_limit({**kaggle, "TPU_NAME": "local"}, 0.0) == (
        9 * hours,
        "Kaggle's 9 hours with a TPU",
    )
    (tmp_path / "1").mkdir()
    (tmp_path / "uptime").write_text("5000.00 1.0\n")
    (tmp_path / "1" / "stat").write_text(f"1 (a b) S {' '.join(['0'] * 18)} 100000 0 0\n")
    assert container_age(tmp_path) == 4000.0
    assert container_age(tmp_path / "none") == 0.0


# ---------------------------------------------------------------------- stalled


def test_a_training_that_hangs_reads_stalled_then_is_given_up_with_its_stacks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is renewed all the while; the process ends, since its thread can't be ended."""
    from runner.engine import pace

    monkeypatch.setattr(pace, "STALLED_LEAST", 0.5)
    short_beats(shop)
    shop.submit("cats", retries=1, limits={"stalled": "2s", "backoff": "5s"})
    codes: list[int] = []
    seen: list[object] = []

    class LeftError(BaseException):
        pass

    def hang_in_here(job: Job, step: int) -> None:
        if step < 5:
            time.sleep(0.02)
            return
        end = time.monotonic() + 30
        while not codes and time.monotonic() < end:
            beat = shop.queue.heartbeat(shop.queue.job("cats"))
            seen.append(beat and beat.details.get("stalled_seconds"))
            time.sleep(0.1)
        raise LeftError

    with pytest.raises(LeftError):
        shop.work(Counting(9, hang_in_here), leave=codes.append)
    assert codes == [75]
    assert None in seen, "it read stalled before it was"
    assert any(isinstance(one, int) and one >= 0 for one in seen), "it never read stalled"
    job = shop.queue.job("cats")
    assert (job.state, job.failures, job.step, job.wait_seconds) == (State.QUEUED, 1, 4, 5.0)
    assert job.failure is not None
    assert job.failure["kind"] == "stalled"
    assert "hang_in_here" in (shop.store.read(job.failure["trace"]) or b"").decode()
    assert "no progress for 2 s (limits.stalled)" in shop.log("cats")
    assert "hang_in_here" in shop.log("cats")


def test_a_training_that_hangs_because_nobody_reads_its_output_is_given_up_too(
    shop: Shop,
) -> None:
    """What would be said of it hangs as well."""
    short_beats(shop)
    shop.submit("cats", retries=1, limits={"stalled": "1s"})
    codes: list[int] = []
    seen: list[int] = []
    gone = threading.Event()

    class LeftError(BaseException):
        pass

    def note(_: str) -> None:
        gone.wait(40)

    def hang(job: Job, step: int) -> None:
        until(lambda: codes)
        seen.extend(codes)
        gone.set()
        raise LeftError

    shop.reporter.note = note  # type: ignore[method-assign,assignment]
    with pytest.raises(LeftError):
        shop.work(Counting(9, hang), leave=codes.append)
    assert seen == [75], "it hung for ever"
    assert shop.queue.job("cats").failures == 1


def test_the_heartbeat_outlives_what_goes_wrong_in_it(shop: Shop) -> None:
    """A thread that died in silence would hand the job to another worker."""
    shop.submit("cats")
    short_beats(shop)
    wrong = [TypeError("x"), OSError(5, "the terminal is gone")]

    def note(_: str) -> None:
        raise OSError(5, "the terminal is gone")

    def beats() -> int:
        beat = shop.queue.heartbeat(shop.queue.job("cats"))
        return beat.sequence if beat else 0

    def hook(number: int, operation: str, key: str) -> None:
        if wrong and operation == "put" and "/lease/" in key:
            shop.reporter.note = note  # type: ignore[method-assign,assignment]
            raise wrong.pop()

    def on_step(job: Job, step: int) -> None:
        if step == 2:
            until(lambda: not wrong and beats() > 3)
            assert beats() > 3

    shop.store.hook = hook
    shop.work(Counting(on_step=on_step))
    assert shop.queue.job("cats").state is State.SUCCEEDED


def test_data_that_take_long_to_read_are_progress(shop: Shop) -> None:
    """Bytes that come are a sign of life; that they come says nothing of how long steps take."""
    short_beats(shop)
    shop.submit("cats", retries=1, limits={"stalled": "1s"})
    codes: list[int] = []
    beats: list[object] = []
    looks: list[Any] = []

    def read(attempt: Attempt) -> None:
        with receiving(100_000_000) as received:
            for _ in range(25):
                received.add(4_000_000)
                beat = shop.queue.heartbeat(shop.queue.job("cats"))
                beats.append(beat and (beat.details["stage"], beat.details["steps"]))
                time.sleep(0.1)
        Counting()(attempt)

    shop.reporter.progressed = lambda _, progress: looks.append(progress)  # type: ignore[method-assign,assignment]
    shop.work(read, leave=codes.append)
    assert codes == []
    assert shop.queue.job("cats").state is State.SUCCEEDED
    assert ("reading data", 100) in beats
    assert [position(look) for look in looks[:2]] == [
        f"reading data, {done} of 100 MB" for done in (4, 8)
    ]
    assert looks[10].eta_seconds == pytest.approx(56 * 1.1 / 44, rel=0.5)


def test_steps_that_take_long_are_not_called_stalled() -> None:
    """Twenty times the usual time, a minute at least; a frozen process is excused."""
    from runner.engine.pace import Vigil
    from runner.training.progress import Progress

    now = 0.0
    vigil = Vigil(clock=lambda: now)

    def stalled() -> bool:
        return vigil.stalled

    def passes(seconds: float) -> None:
        nonlocal now
        for _ in range(int(seconds / 10)):
            now += 10
            vigil.beat(10)

    for megabytes in range(50):
        vigil.moved(Progress(stage="reading data", step=megabytes))
        passes(10)
    passes(1000)
    assert not stalled(), "no step was made yet"
    for step in range(5):
        vigil.moved(Progress(stage="train", global_step=step))
        passes(30)
    passes(500)
    assert not stalled()
    passes(80)
    assert stalled()
    vigil.moved(Progress(stage="train", global_step=4))  # a pause shows itself, without a step
    now += 5000
    vigil.beat(10)
    assert not stalled()
    vigil.beat(10, excused=True)
    assert vigil.silent_seconds == 0


def test_a_worker_of_the_whole_queue_waits_for_a_bucket_that_is_away(shop: Shop) -> None:
    """It gives the job back when the bucket is back: no death, no failure, and it goes on."""
    shop.submit("cats")
    away = 0

    def hook(number: int, operation: str, key: str) -> None:
        nonlocal away
        if away > 0:
            away -= 1
            raise StoreError("no route to the bucket")

    shop.store.hook = hook
    began: list[int] = []

    def on_step(job: Job, step: int) -> None:
        nonlocal away
        if step == 2 and not began:
            began.append(step)
            away = 30

    def sleep(_: float) -> None:
        if not away and shop.queue.job("cats").state is State.SUCCEEDED:
            drain.request(shop.store)

    shop.work(Counting(on_step=on_step), until_empty=False, sleep=sleep)
    job = shop.queue.job("cats")
    assert (job.state, job.preemptions, job.failures, job.deaths) == (State.SUCCEEDED, 1, 0, 0)
    assert "the bucket is away, waiting for it: no route" in shop.reporter.text
    assert "release" in shop.kinds("cats")


def test_a_job_that_could_not_be_read_once_is_taken_up_when_it_can_be(shop: Shop) -> None:
    """By the very worker: a bucket that was away for a moment leaves no job behind."""
    shop.submit("cats")
    away, naps = True, 0

    def hook(number: int, operation: str, key: str) -> None:
        if away and operation == "read" and key.startswith("jobs/cats/"):
            raise StoreError("no route to the bucket")

    def sleep(_: float) -> None:
        nonlocal away, naps
        away, naps = False, naps + 1
        if naps > 200 or shop.queue.job("cats").state is State.SUCCEEDED:
            drain.request(shop.store)

    shop.store.hook = hook
    worker = shop.work(until_empty=False, sleep=sleep)
    assert "cats: cannot be read: no route" in shop.reporter.text
    assert shop.queue.job("cats").state is State.SUCCEEDED
    assert not worker.unreadable


def test_a_worker_that_waits_for_its_bucket_stops_at_once(shop: Shop) -> None:
    """However long its heartbeats are apart."""
    shop.queue.lease_seconds = 86400
    slept = 0.0

    def hook(number: int, operation: str, key: str) -> None:
        if operation == "folders":
            raise StoreError("no route to the bucket")

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        shop.stop.set("notice")

    shop.store.hook = hook
    shop.work(until_empty=False, sleep=sleep)
    assert 0 < slept < 1
