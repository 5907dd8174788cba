"""What this machine lacks fails no job: it is left to others, and said."""

import re
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runner import quiet
from runner.commit import Commit
from runner.engine import choosing, worker
from runner.engine.requirements import missing_here
from runner.engine.stages import Attempt
from runner.errors import (
    DataAwayError,
    MissingHereError,
    OtherModelError,
    SpecError,
)
from runner.queue import presence
from runner.queue.job import State
from runner.store import allowed
from runner.store.log import decode, encode, slot
from tests.engine.counting import Counting, Here, Shop, raising
from tests.harness import large_npz


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
    shop.submit("cats")
    shop.work()
    assert shop.reporter.notes == []
    monkeypatch.setattr(quiet, "SLOW_SECONDS", 0.2)
    shop.submit("dogs")
    shop.work(import_keras=partial(time.sleep, 1.0))
    assert shop.reporter.notes == [worker.SLOW_IMPORT]


def test_the_import_of_a_program_is_part_of_the_start_and_ends_when_asked_to_stop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program imports Keras itself, so this is what takes a minute."""

    def looks(*_: Any, **__: Any) -> str:
        time.sleep(1.0)
        return ""

    monkeypatch.setattr(worker, "missing_here", looks)
    shop.submit("cats")
    shop.work()
    assert (shop.queue.job("cats").time or {})["start"] > 1.0

    def looks_and_is_stopped(*_: Any, **__: Any) -> str:
        shop.stop.set("enough")
        return "it has no program 'half imported'"

    monkeypatch.setattr(worker, "missing_here", looks_and_is_stopped)
    shop.submit("dogs")
    shop.work()
    assert (shop.queue.job("dogs").state, shop.reporter.notes) == (State.QUEUED, [])


def test_a_machine_that_cannot_import_keras_fails_no_job(shop: Shop) -> None:
    shop.submit("cats")
    before = shop.queue.job("cats")

    def broken() -> None:
        raise SpecError("Keras or its backend can't be imported here: ImportError: libcudart.so")

    with pytest.raises(SpecError, match="can't be imported here"):
        shop.work(import_keras=broken)
    assert shop.queue.job("cats") == before
