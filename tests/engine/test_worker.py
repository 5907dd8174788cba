"""What a worker takes, in which order, what it leaves, and how it says so."""

import time
from pathlib import Path
from typing import Any

import pytest

from runner.engine import faults, worker
from runner.engine.machine import Looking, Machine
from runner.engine.session import Session, container_age, known_limit
from runner.errors import ConflictError, DivergedError, SpecError, StoreError, TrainingError
from runner.queue import drain
from runner.queue.job import Failure, Job, State
from runner.queue.owner import this_process
from runner.training.machine import Gpu
from tests.engine.counting import LEASE_SECONDS, Counting, Shop


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(monkeypatch)


class Here(Looking):
    """A machine that is what the test says."""

    def __init__(self, *gigabytes: float, labels: tuple[str, ...] = ()) -> None:
        super().__init__(labels)
        self._cards = tuple(Gpu(name="card", memory_mib=int(g * 1e9 / 2**20)) for g in gigabytes)

    def machine(self) -> Machine:
        return Machine(gpus=self._cards, labels=self._labels)


# ---------------------------------------------------------------------- choosing


def test_priority_goes_before_age(shop: Shop) -> None:
    """Of equals the older; a priority given later counts too."""
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        shop.submit(name, priority=priority)
    shop.queue.prioritize("e", 9)
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["e", "b", "d", "a", "c"]
    assert all(job.state is State.SUCCEEDED for job in shop.queue.jobs())


def test_a_job_waits_until_those_before_it_have_succeeded(shop: Shop) -> None:
    """Evaluated, too; however high its priority."""
    shop.submit("last", priority=9, after=["first", "second"])
    shop.submit("second", after=["first"])
    shop.submit("first")
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["first", "second", "last"]
    assert shop.left == []


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_job_after_one_that_ended_badly_is_held_with_the_reason(shop: Shop, end: str) -> None:
    shop.submit("first")
    shop.submit("second", after=["first"])
    if end == "cancelled":
        shop.queue.cancel("first")
    shop.work(raising(SpecError("no such field")))
    held = shop.queue.job("second")
    assert held.state is State.HELD
    assert f"it is to come after first, which is {end}" in held.reason
    assert "runner release second" in held.reason
    assert f"second: held: {held.reason}" in shop.reporter.notes
    shop.queue.retry("first")
    shop.work()
    shop.queue.unhold("second")
    shop.work()
    assert shop.queue.job("second").state is State.SUCCEEDED


def test_what_waits_for_another_workers_job_is_left_and_said(shop: Shop) -> None:
    shop.submit("second", after=["first", "third"])
    shop.queue.claim(shop.submit("first"), this_process()).renew()
    shop.work()
    assert {other.job.id for other in shop.left} >= {"second"}
    assert "second: it waits for first (running), third, which is not there" in shop.reporter.text
    assert shop.queue.job("second").state is State.QUEUED


def test_requirements_are_matched_to_the_machine_and_said(shop: Shop) -> None:
    """What fits nothing here stays in the queue, for whoever it fits."""
    shop.submit("big", requirements={"gpu_memory_gb": 40.0, "labels": []})
    shop.submit("lab", requirements={"gpu_memory_gb": None, "labels": ["lab"]})
    shop.submit("later", requirements={"cores": 64})
    shop.submit("any", requirements={"gpu_memory_gb": None, "labels": []})
    stage = Counting()
    shop.work(stage, looking=Here(15.8))
    assert stage.ran == ["any"]
    assert {other.job.id for other in shop.left} == {"big", "lab", "later"}
    for words in (
        "big: left for another machine: it needs a GPU with 40 GB of memory, the largest here has"
        " 15.8 GB",
        "lab: left for another machine: it needs a machine labelled lab, this one is without",
        "later: left for another machine: it needs cores, of which this version",
    ):
        assert words in shop.reporter.text
    shop.work(stage, looking=Here(15.8, 42.9, labels=("lab",)))
    assert stage.ran == ["any", "big", "lab"]
    assert shop.queue.job("later").state is State.QUEUED


def test_labels_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LABELS", "lab, a100")
    machine = Looking(["mine"]).machine()
    assert machine.labels == {"mine", "lab", "a100"}
    assert machine.lacks({"labels": ["a100"]}) == ""


# ---------------------------------------------------------------------- failures


def raising(error: BaseException, times: int = 99) -> Counting:
    left = times

    def fail(job: Job, step: int) -> None:
        nonlocal left
        if step == 2 and left:
            left -= 1
            raise error

    return Counting(on_step=fail)


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


class XlaRuntimeError(Exception):
    """Named as JAX's."""


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (KeyError("boom"), Failure.CRASH, 3),
        (MemoryError(), Failure.OUT_OF_MEMORY, 3),
        (ResourceExhaustedError("OOM"), Failure.OUT_OF_MEMORY, 3),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), Failure.OUT_OF_MEMORY, 3),
        (XlaRuntimeError("INTERNAL: something"), Failure.CRASH, 3),
        (DivergedError("the loss became nan"), Failure.DIVERGED, 1),
        (TrainingError("no multiple"), Failure.TRAINING, 1),
        (SpecError("no such field"), Failure.SPEC, 1),
    ],
)
def test_failures_are_told_apart_and_retried_where_that_may_help(
    shop: Shop, error: BaseException, kind: Failure, tries: int
) -> None:
    """The traceback is kept; what was saved stays; preemptions are counted apart."""
    shop.submit("cats", retries=2, limits={"backoff": "10s"})
    began = shop.now
    shop.work(raising(error))
    job = shop.queue.job("cats")
    assert (job.state, job.attempts, job.failures, job.preemptions) == (
        State.FAILED,
        tries,
        tries,
        0,
    )
    assert job.step == 1
    assert job.failure is not None
    assert job.failure["kind"] == kind
    trace = (shop.store.read(job.failure["trace"]) or b"").decode()
    assert "Traceback" in trace
    assert str(error) in trace
    assert "in fail" in trace
    assert str(error) in shop.log("cats")
    assert shop.now - began >= (30 if tries == 3 else 0)


def test_a_retry_waits_and_goes_on_where_it_stood(shop: Shop) -> None:
    shop.submit("cats", retries=2, limits={"backoff": "40s"})
    shop.work(raising(KeyError("once"), times=1))
    job = shop.queue.job("cats")
    assert (job.state, job.attempts, job.failures) == (State.SUCCEEDED, 3, 0)
    assert "tried again in 40 s" in shop.reporter.text
    assert shop.kinds("cats").count("fail") == 1
    assert job.failure is not None, "how it failed before is still there to be read"


def test_meanwhile_other_jobs_are_worked_on(shop: Shop) -> None:
    shop.submit("cats", retries=1, priority=5)
    shop.submit("dogs")
    stage = raising(KeyError("once"), times=1)
    shop.work(stage)
    assert stage.ran == ["cats", "dogs", "cats"]


def die(shop: Shop, name: str, owner: dict[str, Any] | None = None) -> None:
    """Claim a job and be gone."""
    shop.queue.claim(shop.queue.job(name), owner or {"host": "there", "pid": 1})
    shop.now += LEASE_SECONDS + 1


def test_a_poison_job_is_held_and_the_others_go_on(shop: Shop) -> None:
    shop.submit("poison")
    shop.submit("cats")
    for _ in range(3):
        die(shop, "poison")
    shop.work()
    held = shop.queue.job("poison")
    assert (held.state, held.deaths, held.failures) == (State.HELD, 3, 0)
    assert "its last 3 attempts died after step 0" in held.reason
    assert "poison: held: quarantined" in shop.reporter.text
    assert shop.queue.job("cats").state is State.SUCCEEDED
    shop.queue.unhold("poison")
    shop.work()
    assert shop.queue.job("poison").state is State.SUCCEEDED


def test_a_worker_that_the_kernel_killed_for_memory_is_recognised(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the counter of the control group, on the same machine."""
    monkeypatch.setattr(worker, "oom_kills", lambda: 8)
    gone = {**this_process(), "started": "1", "oom_kills": 7}
    shop.submit("cats")
    die(shop, "cats", gone)
    shop.work(owner=this_process())
    assert "cats: taken over from a worker that the kernel killed for lack of memory" in (
        shop.reporter.notes
    )


def test_oom_kills_are_read_from_both_kinds_of_control_groups(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user.slice/x\n")
    assert faults.oom_kills(tmp_path, membership) is None
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert faults.oom_kills(tmp_path, membership) == 1
    own = tmp_path / "user.slice" / "x" / "memory.events"
    own.parent.mkdir(parents=True)
    own.write_text("oom_kill 5\n")
    assert faults.oom_kills(tmp_path, membership) == 5
    membership.write_text("4:cpu,memory:/y\n")
    old = tmp_path / "memory" / "y" / "memory.oom_control"
    old.parent.mkdir(parents=True)
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert faults.oom_kills(tmp_path, membership) == 3


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
        shop.now += 400.0

    one = shop.work(Counting(6, on_step), session=session)
    job = shop.queue.job("cats")
    assert one.session_over
    assert (job.state, job.step, job.preemptions) == (State.QUEUED, 3, 1)
    assert "--max-duration 1000s" in job.reason


def test_nothing_is_begun_that_could_not_make_a_step(shop: Shop) -> None:
    """By what a start took the last time, or may take."""
    shop.submit("cats")
    shop.work(raising(KeyError("x"), times=1))
    assert shop.queue.job("cats").startup_seconds > 0
    for name, seconds in (("slow", 300.0), ("fast", 1.0)):
        lease = shop.queue.claim(shop.submit(name), {"host": "h"})
        lease.commit(step=1, epoch=0, checkpoints=[], startup_seconds=seconds)
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
    assert known_limit(kaggle, 13 * hours) == (0.0, "Kaggle's 12 hours")
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


def test_the_race_for_a_job_is_no_news(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight workers that want the same job: seven take the next one, in silence."""
    shop.submit("cats")
    shop.submit("dogs")
    claim = shop.queue.claim
    raced: list[object] = []

    def slow(job: Job, *args: Any, **kwargs: Any) -> Any:
        if job.id == "cats" and not raced:
            raced.append(claim(job, {"host": "there", "pid": 9}))
            raise ConflictError("cats is not as it was")
        return claim(job, *args, **kwargs)

    monkeypatch.setattr(shop.queue, "claim", slow)
    shop.work()
    assert shop.queue.job("dogs").state is State.SUCCEEDED
    assert "not as it was" not in shop.reporter.text


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
