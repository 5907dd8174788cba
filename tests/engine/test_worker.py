"""What a worker takes, in which order, what it leaves, and how it says so."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.engine import machine, running, worker
from runner.engine.machine import Looking, Machine
from runner.engine.memory import Memory, MemoryWatch
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    DivergedError,
    LeaseLostError,
    SpecError,
    TrainingError,
)
from runner.queue.job import Failure, Job, State
from runner.queue.owner import this_process
from runner.queue.protocol import LOOK_BEATS
from runner.training.machine import Gpu
from tests.engine.counting import LEASE_SECONDS, Counting, Shop, raising
from tests.harness import large_npz


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
    worker = shop.work()
    assert worker.held == ["poison"], "so that the exit code is not that of a queue that is done"
    held = shop.queue.job("poison")
    assert (held.state, held.deaths, held.failures) == (State.HELD, 3, 0)
    assert "its last 3 attempts died after step 0" in held.reason
    assert "poison: held: quarantined" in shop.reporter.text
    assert shop.queue.job("cats").state is State.SUCCEEDED
    shop.queue.unhold("poison")
    shop.work()
    assert shop.queue.job("poison").state is State.SUCCEEDED


def test_after_a_death_the_first_new_step_is_saved_at_once(shop: Shop) -> None:
    """Machines that live shorter than checkpoints are apart make no poison of a healthy job."""
    wanted: dict[str, list[bool]] = {"cats": [], "dogs": []}
    shop.submit("cats")
    shop.submit("dogs")
    die(shop, "cats")
    shop.work(Counting(on_step=lambda job, _: wanted[job.id].append(shop.stop.take_save_request())))
    assert wanted == {"cats": [True, False, False], "dogs": [False, False, False]}


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


# ---------------------------------------------------------------------- what an attempt records


def test_a_claim_names_the_commit_of_the_users_code(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "git_commit", lambda: "c0ffee")
    seen: list[Any] = []
    shop.submit("cats")
    shop.work(Counting(1, lambda job, _: seen.append((job.owner or {}).get("git_commit"))))
    assert seen == ["c0ffee"]


def test_an_attempt_says_that_memory_is_short_before_it_is_killed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs: afterwards there may be nobody left to say it."""
    tight = Memory(used=95, limit=100, kills=0)
    watch = partial(MemoryWatch, look=lambda: tight, interval_seconds=0.001)
    monkeypatch.setattr(running, "MemoryWatch", watch)
    said: list[bool] = []

    def on_step(job: Job, step: int) -> None:
        until = time.monotonic() + 10
        while "the kernel kills this attempt" not in shop.log("cats") and time.monotonic() < until:
            time.sleep(0.01)
        said.append("the kernel kills this attempt" in shop.log("cats"))

    shop.submit("cats")
    shop.work(Counting(1, on_step))
    assert said == [True]


# ---------------------------------------------------------------------- what is not here


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"data": {"name": "npz", "path": "/nowhere/x.npz"}}, "it has no /nowhere/x.npz"),
        ({"model": {"name": "of_a_package"}}, "it has no model 'of_a_package'"),
        ({"data": {"name": "of_a_package"}}, "it has no dataset 'of_a_package'"),
        ({"data": {"name": "npz", "path": "LARGE"}}, "it needs at least 100000.5 GB of memory"),
    ],
)
def test_what_this_machine_has_not_fails_no_job(
    shop: Shop, spec: dict[str, Any], why: str, tmp_path: Path
) -> None:
    """It was trained elsewhere, and its evaluation waits for such a machine, unclaimed."""
    if spec.get("data", {}).get("path") == "LARGE":
        spec = {"data": {"name": "npz", "path": str(large_npz(tmp_path))}}
    shop.submit("elsewhere", **spec)
    shop.submit("after", after=["elsewhere"])
    shop.submit("here", data={"path": str(tmp_path)})
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["here"]
    assert [owned.job.id for owned in shop.left] == ["elsewhere", "after"]
    assert f"elsewhere: left for another machine: {why}" in shop.reporter.text
    job = shop.queue.job("elsewhere")
    assert (job.state, job.attempts, job.failures) == (State.QUEUED, 0, 0)


# ---------------------------------------------------------------------- jobs that are ruined


@pytest.mark.parametrize("gone", ["log/000000000000.json", "log/"])
def test_a_job_whose_records_are_gone_stops_no_worker(shop: Shop, gone: str) -> None:
    """It is said, with what to do; nothing can be done to the job, and nothing is done."""
    shop.submit("ruined")
    shop.submit("whole")
    for key in shop.store.list("jobs/ruined/"):
        if key.startswith(f"jobs/ruined/{gone}"):
            shop.store.delete(key)
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["whole"]
    said = "ruined: cannot be read: records of ruined are gone from jobs/ruined/log"
    assert said in shop.reporter.text
    for act in (shop.queue.cancel, shop.queue.unhold, shop.queue.retry):
        with pytest.raises(DamagedRecordError, match="remove the whole of jobs/ruined"):
            act("ruined")


def test_an_owner_notices_that_its_job_was_removed(shop: Shop) -> None:
    job = shop.submit("removed")
    lease = shop.queue.claim(job, {"host": "here", "pid": 1})
    for key in shop.store.list("jobs/removed/"):
        shop.store.delete(key)
    for _ in range(LOOK_BEATS - 1):
        lease.renew()
    with pytest.raises(LeaseLostError, match="its records were removed"):
        lease.renew()
    with pytest.raises(LeaseLostError):
        lease.commit(step=1, epoch=0, checkpoints=[])
