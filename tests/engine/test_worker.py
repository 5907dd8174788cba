"""Failures, deaths and retries; what an attempt records."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from runner.engine import attempt, requirements, running, worker
from runner.engine.attempt import log_key
from runner.engine.preemption import StopRequest
from runner.errors import (
    ConflictError,
    DivergedError,
    SpecError,
    TrainingError,
)
from runner.machine.memory import Memory, MemoryWatch
from runner.queue.job import Failure, Job, State
from runner.queue.owner import this_process
from tests.engine.counting import LEASE_SECONDS, Counting, Here, Shop, raising


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


class XlaRuntimeError(Exception):
    """Named as JAX's."""


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (KeyError("boom"), Failure.CRASH, 3),
        (MemoryError(), Failure.OUT_OF_MEMORY, 3),
        (SystemExit(0), Failure.CRASH, 3),
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


def test_a_log_ends_with_what_became_of_its_stage(shop: Shop) -> None:
    shop.submit("cats")
    shop.work()
    said = [line.split(" ", 1)[1] for line in shop.log("cats").splitlines()]
    assert "the training has ended after 0 epochs, at step 3" in said
    assert said[-1] == "the evaluation has ended: top_1 1.0000"


def test_of_many_attempts_the_last_ones_logs_are_kept(shop: Shop) -> None:
    """A job that was preempted ten thousand times does not fill its store."""
    shop.submit("cats", limits={"deaths": 1000})
    last, kept = 2 * attempt.KEPT_ATTEMPTS, attempt.KEPT_ATTEMPTS
    for token in range(1, last):
        shop.store.put(log_key("cats", token), b"words")
        die(shop, "cats")
    shop.work()
    for folder in ("logs", "lease"):
        names = {key.rpartition("/")[2].partition(".")[0] for key in of(shop, folder)}
        assert min(map(int, names)) > kept, f"the first of {last} attempts left something"
    assert len(of(shop, "logs")) == last - kept + 1, "the evaluation is an attempt too"


def of(shop: Shop, folder: str) -> list[str]:
    return shop.store.list(f"jobs/cats/{folder}/")


def test_a_retry_waits_and_goes_on_where_it_stood(shop: Shop) -> None:
    shop.submit("cats", retries=2, limits={"backoff": "40s"})
    shop.work(raising(OSError(f"once.{' It was so for a long time.' * 9}"), times=1))
    job = shop.queue.job("cats")
    assert (job.state, job.attempts, job.failures) == (State.SUCCEEDED, 3, 0)
    [said] = shop.reporter.notes
    assert said.startswith("cats: it is queued, OSError: once. It was so ")
    assert said.endswith(" …; tried again in 40 s")
    assert len(said) < 140, "the end of the attempt has said all of it"
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


def test_many_workers_leave_no_job_and_run_none_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each knows of the queue is old at once: all take the same jobs."""
    for number in range(20):
        shop.submit(f"job-{number:02d}", priority=number % 3)
    stage = Counting(1)
    monkeypatch.setattr(running, "run_stage", stage)

    def work(name: str) -> None:
        worker.Worker(
            shop.queue,
            shop.store,
            stop=StopRequest(),
            reporter=shop.reporter,
            owner={"host": name, "pid": 1},
            sleep=lambda _seconds: time.sleep(0.001),
            looking=Here(),
        ).work()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, f"machine-{number}") for number in range(4)]:
            done.result()
    assert sorted(stage.ran) == [f"job-{number:02d}" for number in range(20)]
    assert {job.state for job in shop.queue.jobs()} == {State.SUCCEEDED}


def test_a_job_that_another_has_trained_meanwhile_is_evaluated(shop: Shop) -> None:
    """It is not as it was when the queue was looked at, and it is to be had all the same."""
    shop.submit("cats", priority=1)
    shop.submit("dogs")

    def train_dogs(job: Job, step: int) -> None:
        if job.id == "cats" and step == 1:
            other = shop.queue.claim(shop.queue.job("dogs"), {"host": "there", "pid": 9})
            other.finish(final={"step": 3})

    stage = Counting(on_step=train_dogs)
    shop.work(stage)
    assert stage.ran == ["cats"]
    assert [job.state for job in shop.queue.jobs()] == [State.SUCCEEDED] * 2


def test_a_claim_names_the_commit_of_the_users_code(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "git_commit", lambda: "c0ffee")
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
