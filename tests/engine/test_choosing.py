"""Which job a worker takes, and which it leaves."""

from typing import Any

import pytest

from runner.engine.requirements import Looking
from runner.errors import (
    SpecError,
)
from runner.queue.job import State
from runner.queue.owner import this_process
from tests.engine.counting import Counting, Here, Shop, raising


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
