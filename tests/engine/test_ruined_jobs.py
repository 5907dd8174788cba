"""A job whose records are ruined or removed stops no worker."""

import json
from typing import Any

import pytest

from runner.cli.words import ended
from runner.commit import Commit
from runner.errors import (
    DamagedRecordError,
    LeaseLostError,
)
from runner.queue.job import Job, State
from runner.queue.owner import this_process
from runner.queue.survey import FULL_SECONDS, Survey
from runner.store import appending, log
from tests.engine.counting import Counting, Shop


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


def test_a_record_that_an_earlier_job_wrote_late_stops_no_worker(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written behind the first until it is gone, and it is said how it goes."""
    monkeypatch.setattr(appending, "RESENDS", 2)
    shop.queue.claim(shop.submit("ruined"), {"host": "elsewhere", "pid": 1})
    late = shop.store.read("jobs/ruined/log/000000000001.json") or b""
    remove(shop, "ruined")
    shop.submit("ruined", priority=1)
    shop.store.create("jobs/ruined/log/000000000001.json", late)
    shop.submit("whole")
    stage = Counting()
    shop.work(stage)
    assert stage.ran == ["whole"]
    assert "'runner doctor --repair' removes it" in shop.reporter.text
    shop.store.delete("jobs/ruined/log/000000000001.json")
    shop.work(stage)
    assert stage.ran == ["whole", "ruined"]


def test_a_late_record_that_is_met_at_a_commit_stops_no_worker(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "RESENDS", 2)
    shop.submit("other", seed=9)
    shop.queue.hold("other")
    shop.queue.unhold("other")
    late = shop.store.read("jobs/other/log/000000000002.json") or b""
    shop.queue.cancel("other")

    def act(job: Job, _step: int) -> None:
        if job.id == "ruined":
            shop.store.create("jobs/ruined/log/000000000002.json", late)

    shop.submit("ruined", priority=1)
    shop.submit("whole")
    stage = Counting(on_step=act)
    shop.work(stage)
    assert stage.ran == ["ruined", "whole"]
    assert "'runner doctor --repair' removes it" in shop.reporter.text


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
