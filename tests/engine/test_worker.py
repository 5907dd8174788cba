"""What a worker takes, in which order, what it leaves, and how it says so."""

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runner import quiet
from runner.cli.words import ended
from runner.commit import Commit
from runner.engine import attempt, choosing, requirements, running, worker
from runner.engine.attempt import log_key
from runner.engine.preemption import StopRequest
from runner.engine.requirements import Looking, Machine, missing_here
from runner.engine.stages import Attempt
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    DataAwayError,
    DivergedError,
    LeaseLostError,
    MissingHereError,
    OtherModelError,
    SpecError,
    TrainingError,
)
from runner.machine.hardware import Gpu
from runner.machine.memory import Memory, MemoryWatch
from runner.queue import presence
from runner.queue.job import Failure, Job, State
from runner.queue.owner import this_process
from runner.queue.survey import FULL_SECONDS, Survey
from runner.store import allowed, log
from runner.store.log import decode, encode, slot
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
    assert "runner unhold second" in held.reason
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


def test_many_jobs_left_for_the_same_reason_share_a_line(shop: Shop) -> None:
    for number in range(6):
        shop.submit(f"lab{number}", requirements={"gpu_memory_gb": None, "labels": ["lab"]})
    shop.submit("other", requirements={"gpu_memory_gb": None, "labels": ["other"]})
    shop.queue.cancel("lab0")
    shop.work(looking=Here())
    assert not [note for note in shop.reporter.notes if "jobs: " in note], (
        "5 have lines of their own"
    )
    assert "lab5: left for another machine: it needs a machine labelled lab" in shop.reporter.text
    shop.queue.retry("lab0")
    shop.reporter.notes.clear()
    shop.work(looking=Here())
    (many,) = [note for note in shop.reporter.notes if "labelled lab," in note]
    assert many.startswith("6 jobs: left for another machine: it needs a machine labelled lab, ")
    assert many.endswith(" (lab0, lab1, lab2, lab3, …)")


@pytest.mark.parametrize(("devices", "used"), [(1, 1), (2, 2), ("all", 3)])
def test_a_job_is_charged_for_the_cards_that_it_uses(shop: Shop, devices: Any, used: int) -> None:
    """By itself for one of several, which is said; the evaluation of any for one."""
    shop.submit("cats", training={"devices": devices})
    counting, charged = Counting(1), []

    def stage(attempt: Any) -> None:
        charged.append(attempt.lease.job.owner["gpus"])
        counting(attempt)

    shop.work(stage, looking=Here(23.0, 23.0, 23.0))
    assert charged == [used, 1]
    assert "3 GPUs are here, and a job uses one: 'runner work --each-gpu'" in shop.reporter.text
    shop.submit("dogs")
    shop.reporter.notes.clear()
    shop.work(looking=Here(23.0))
    assert "GPU" not in shop.reporter.text


def test_a_job_for_more_devices_than_a_worker_has_is_left(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it trains on, or by what its "all" must be at least; a CPU is one device."""
    shop.submit("four", training={"devices": 4})
    shop.submit("all", training={"devices": "all"}, requirements={"devices": 2})
    shop.work(looking=Here(23.0, 23.0))
    assert "four: left for another machine: it needs 4 devices, this worker has 2" in (
        shop.reporter.text
    )
    assert shop.queue.job("all").state is State.SUCCEEDED
    shop.submit("two", training={"devices": 2})
    shop.work(looking=Here())
    assert "two: left for another machine: it needs 2 devices, this worker has 1" in (
        shop.reporter.text
    )
    monkeypatch.setenv("RUNNER_CPU_DEVICES", "2")
    shop.work(looking=Here())
    assert shop.queue.job("two").state is State.SUCCEEDED


def test_labels_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LABELS", "lab, a100")
    machine = Looking(["mine"]).machine()
    assert machine.labels == {"mine", "lab", "a100"}
    assert machine.lacks({"labels": ["a100"]}) == ""


@pytest.mark.parametrize("label", ["two words", "-x", "größe", "x" * 64, "a=b"])
def test_a_label_that_no_spec_could_ask_for_is_refused(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="no spec could ask for it"):
        Looking([label])
    monkeypatch.setenv("RUNNER_LABELS", f"lab,{label}")
    with pytest.raises(SpecError, match="RUNNER_LABELS"):
        Looking()


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


# ---------------------------------------------------------------------- what an attempt records


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


# ---------------------------------------------------------------------- what is not here


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"data": {"name": "npz", "path": "/nowhere/x.npz"}}, "it has no /nowhere/x.npz"),
        ({"model": {"name": "of_a_package"}}, "it has no model 'of_a_package'"),
        ({"data": {"name": "of_a_package"}}, "it has no dataset 'of_a_package'"),
        ({"training": {"later": 1}}, "this version of runner can't read its spec: 1 mistake; tra"),
        (
            {"model": {"name": "transfer", "arguments": {"weights": "/nowhere/w.h5"}}},
            "it has no /nowhere/w.h5",
        ),
        (
            {"data": {"name": "npz", "path": "/nowhere/x.npz", "given": "data/x.npz"}},
            "it has no /nowhere/x.npz, nor data/x.npz in the folder it works in",
        ),
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


OF_A_BUCKET = "left for another machine: it reads"


def test_local_files_are_read_for_those_who_submitted_here_alone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes the bucket names any file; the machine's user says which may be read."""
    monkeypatch.setattr(allowed, "_submitted", set())
    shop.store.url = "s3://bucket/runs"
    for name in ("mine", "theirs"):
        (tmp_path / name).write_text("data")
        shop.submit(name, data={"path": str(tmp_path / name)})
    allowed._submitted.clear()
    allowed._state_file().write_text(f"{tmp_path}/mine\n")
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["mine"]
    assert f"theirs: {OF_A_BUCKET} {tmp_path}/theirs" in shop.reporter.text
    assert f"RUNNER_DATA_FROM={tmp_path}" in shop.reporter.text
    assert shop.queue.job("theirs").attempts == 0
    monkeypatch.setenv("RUNNER_DATA_FROM", f"/srv, {tmp_path}")
    shop.work(stage)
    assert stage.ran == ["mine", "theirs"]


def test_weights_are_no_secret_way_to_a_file(shop: Shop, tmp_path: Path) -> None:
    """They are read once, when the job begins: later it needs none."""
    (tmp_path / "w.h5").write_text("weights")
    shop.submit(
        "cats", model={"name": "transfer", "arguments": {"weights": str(tmp_path / "w.h5")}}
    )
    shop.store.url = "s3://bucket/runs"
    spec = shop.queue.spec("cats")
    assert OF_A_BUCKET[-8:] in missing_here(spec, shop.store.url, begun=False)
    assert missing_here(spec, shop.store.url, begun=True) == ""
    assert missing_here(spec, "file:///runs", begun=False) == ""
    (tmp_path / "w.h5").unlink()
    assert missing_here(spec, "file:///runs", begun=False) == f"it has no {tmp_path}/w.h5"


def test_data_that_are_away_fail_no_job(shop: Shop) -> None:
    """Nor are they asked for again and again: the worker goes on with others."""

    def stage(attempt: Attempt) -> None:
        if attempt.lease.job.id == "away":
            raise DataAwayError("https://nas/x.npz: its server refuses it (403)")
        Counting()(attempt)

    shop.submit("away")
    shop.submit("here")
    shop.work(stage)
    job = shop.queue.job("away")
    assert (job.state, job.attempts, job.failures) == (State.QUEUED, 1, 0)
    assert "its server refuses it (403)" in job.reason
    assert job.reason.startswith("left for another machine: https://nas/x.npz")
    assert shop.queue.job("here").state is State.SUCCEEDED


def test_a_job_that_has_begun_needs_its_first_weights_no_more(shop: Shop) -> None:
    """They are in its checkpoints."""
    shop.submit("cats", model={"name": "transfer", "arguments": {"weights": "/nowhere/w.h5"}})
    lease = shop.queue.claim(shop.queue.job("cats"), {"host": "there"})
    lease.commit(Commit(step=1, epoch=0, checkpoints=[{"step": 1}]))
    lease.release("going home")
    shop.work()
    assert shop.queue.job("cats").state is State.SUCCEEDED


def test_a_record_of_a_later_version_is_left_and_said(shop: Shop) -> None:
    shop.submit("later")
    shop.submit("cats")
    first = decode(shop.store.read(slot("jobs/later", 0)) or b"", "later")
    kept = {name: value for name, value in first.items() if not name.startswith("sum")}
    new = {**kept, "number": 1, "state": "paused", "nonce": "n", "previous": first["nonce"]}
    shop.store.create(slot("jobs/later", 1), encode(new))
    before = {key: shop.store.read(key) for key in shop.store.list("jobs/later/")}
    shop.work()
    assert shop.queue.job("cats").state is State.SUCCEEDED
    assert "later: cannot be read: record 1 of job later can't be used" in shop.reporter.text
    assert "by a later version of runner" in shop.reporter.text
    assert {key: shop.store.read(key) for key in shop.store.list("jobs/later/")} == before


def test_data_behind_a_package_that_is_not_here_are_left_before_a_claim(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    monkeypatch.setenv("RUNNER_DATA_FROM", "sftp://nas/")
    shop.submit("cats", data={"name": "npz", "path": "sftp://nas/x.npz"})
    shop.work()
    assert shop.kinds("cats") == ["submit"]
    assert re.search(r"it can't open sftp://nas/x.npz: .*paramiko", shop.reporter.text)
    assert "its fsspec package" not in shop.reporter.text


def test_what_a_worker_leaves_is_told_while_it_works_and_while_it_waits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any look of anybody's: also when it just looks again at what it postponed."""
    for module in ("identity", "choosing"):
        monkeypatch.setattr(f"runner.engine.{module}.boot_clock", lambda: shop.now)
    shop.submit("file", priority=1, data={"name": "npz", "path": "/nowhere/x.npz"})
    shop.submit("mine")
    shop.submit("lab", priority=-1, requirements={"gpu_memory_gb": None, "labels": ["lab"]})
    seen: list[list[str]] = []

    def look(*_: object) -> None:
        seen.extend(sorted(one.left) for one in presence.everyone(shop.store))

    def sleep(_seconds: float) -> None:
        look()
        shop.now += 5.0
        if shop.now > 1500.0:
            shop.stop.set("enough")

    shop.work(Counting(on_step=look), looking=Here(), sleep=sleep, until_empty=False)
    assert len(seen) > 90
    assert [left for left in seen if left != ["file", "lab"]] == []


@pytest.mark.parametrize(
    "error", [MissingHereError("/data/x.npz: no such file"), OtherModelError("another model")]
)
def test_what_vanishes_after_the_claim_is_left_to_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Given back with the reason, neither failed nor preempted; not taken again for a while."""
    now = [0.0]
    monkeypatch.setattr(choosing, "boot_clock", lambda: now[0])
    shop.submit("cats", retries=0)
    shop.submit("after", after=["cats"])
    stage = raising(error, times=3)
    stage.steps = 9
    ran: list[float] = []

    def sleep(seconds: float) -> None:
        if len(stage.ran) > len(ran):
            ran.append(now[0])
        now[0] += seconds
        if len(ran) == 3 or now[0] > 2000:
            shop.stop.set("enough")

    shop.work(stage, until_empty=False, sleep=sleep)
    job = shop.queue.job("cats")
    assert (job.state, job.attempts, job.failures, job.preemptions) == (State.QUEUED, 3, 0, 0)
    assert job.reason == f"left for another machine: {error}"
    assert job.reason not in shop.reporter.text, "the end of the attempt says it, and that is once"
    waits = [after - before for before, after in pairwise(ran)]
    assert 60 <= waits[0] < 75, "so that it does not fill the log of the job"
    assert 120 <= waits[1] < 135
    shop.work()
    assert shop.queue.job("after").state is State.SUCCEEDED, "another machine has the file"


def test_what_its_user_queues_again_is_looked_at_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(choosing, "boot_clock", lambda: now[0])
    shop.submit("cats")
    stage = raising(MissingHereError("/data/x.npz: no such file"), times=1)

    def sleep(seconds: float) -> None:
        if now[0] == 0.0:
            shop.queue.cancel("cats")
            shop.queue.retry("cats")
        now[0] += seconds
        if shop.queue.job("cats").state is State.SUCCEEDED or now[0] > 500:
            shop.stop.set("enough")

    shop.work(stage, until_empty=False, sleep=sleep)
    assert shop.queue.job("cats").state is State.SUCCEEDED
    assert now[0] < 60, "it was postponed for a minute, before its user said that all is mended"


def test_an_import_that_takes_long_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "SLOW_SECONDS", 0.2)
    shop.submit("cats")
    shop.work()
    assert shop.reporter.notes == []
    shop.submit("dogs")
    shop.work(import_keras=partial(time.sleep, 1.0))
    assert shop.reporter.notes == [worker.SLOW_IMPORT]


def test_a_machine_that_cannot_import_keras_fails_no_job(shop: Shop) -> None:
    shop.submit("cats")
    before = shop.queue.job("cats")

    def broken() -> None:
        raise SpecError("Keras or its backend can't be imported here: ImportError: libcudart.so")

    with pytest.raises(SpecError, match="can't be imported here"):
        shop.work(import_keras=broken)
    assert shop.queue.job("cats") == before


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


def test_a_record_that_makes_no_sense_beside_its_copy_stops_no_worker(shop: Shop) -> None:
    """Of the first versions: it has no hash that would tell that it is damaged."""
    shop.queue.claim(shop.submit("ruined", priority=1), this_process()).release("going home")
    shop.submit("whole")
    key = "jobs/ruined/log/000000000002.json"
    record = log.decode(shop.store.read(key) or b"", key)
    shop.store.put(key, json.dumps({**record, "submitted_at": "yesterday"}).encode())
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["whole"]
    assert "ruined: cannot be read: record 2 of job ruined can't be used" in shop.reporter.text


def remove(shop: Shop, name: str) -> None:
    for key in shop.store.list(f"jobs/{name}/"):
        shop.store.delete(key)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("how", ["renew", "commit", "finish"])
def test_an_owner_notices_at_once_that_its_job_was_removed(
    shop: Shop, how: str, *, again: bool
) -> None:
    """Also if it was submitted again meanwhile, and others have written its records since."""
    lease = shop.queue.claim(shop.submit("removed"), {"host": "here", "pid": 1})
    remove(shop, "removed")
    if again:
        shop.submit("removed")
        shop.queue.cancel("removed")
        shop.queue.retry("removed")
    before = shop.store.list("jobs/removed/log/")
    arguments: dict[str, Any] = {
        "commit": {"commit": Commit(step=1, epoch=0, checkpoints=[])},
        "finish": {"final": {"step": 1}},
    }
    for _ in range(2):
        with pytest.raises(LeaseLostError, match="its records were removed"):
            getattr(lease, how)(**arguments.get(how, {}))
    assert shop.store.list("jobs/removed/log/") == before


def test_a_job_removed_while_it_is_trained_and_submitted_again_is_a_new_one(shop: Shop) -> None:
    """Its former worker stops, says why and nothing else; then the job begins anew."""
    said: list[str] = []

    def act(job: Job, step: int) -> None:
        if step == 2 and not said:
            said.append("removed")
            remove(shop, job.id)
            shop.submit(job.id)

    shop.submit("mid")
    stage = Counting(on_step=act)
    shop.reporter.ended = lambda job: shop.reporter.note(ended(job))  # type: ignore[method-assign]
    shop.work(stage)
    assert stage.ran == ["mid", "mid"]
    job = shop.queue.job("mid")
    assert (job.state, job.attempts) == (State.SUCCEEDED, 2), shop.kinds("mid")
    keys = shop.store.list("jobs/mid/log/")
    assert [int(key[-17:-5]) for key in keys] == list(range(job.number + 1))
    assert shop.reporter.notes[:2] == [
        "mid: its records were removed; nothing more is saved.",
        "mid: queued",
    ]


def test_a_worker_does_not_keep_to_a_job_that_was_removed_and_came_again(shop: Shop) -> None:
    """Nobody claims behind a record that is gone, nor takes a new job for one that has ended."""
    now = 0.0
    survey = Survey(shop.queue, lambda job_id, error: None, clock=lambda: now)
    for name in ("ended", "waiting"):
        shop.submit(name)
        shop.queue.cancel(name)
    shop.queue.retry("waiting")
    survey.jobs()
    for name in ("ended", "waiting"):
        remove(shop, name)
    assert survey.jobs() == [], "what is listed no longer is forgotten"
    shop.submit("ended")
    assert [job.number for job in survey.jobs()] == [0]
    shop.queue.cancel("ended")
    now += FULL_SECONDS
    survey.jobs()
    remove(shop, "ended")
    shop.submit("ended")  # between two looks
    now += FULL_SECONDS
    assert [(job.number, job.state) for job in survey.jobs()] == [(0, State.QUEUED)]
